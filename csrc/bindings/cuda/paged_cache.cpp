// Bindings of what writes into the paged KV cache.
#include "pagecli/cuda/attention/copy_blocks.h"
#include "pagecli/cuda/attention/norm_rotary_store_kv.h"
#include "pagecli/cuda/attention/rotary_store_kv.h"
#include "pagecli/cuda/attention/store_kv.h"
#include "pagecli/cuda/elementwise/rms_norm.h"

#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

#include <utility>
#include <vector>

#include "bind.h"
#include "device_tensor.h"

namespace nb = nanobind;

namespace pagecli {
namespace {

cuda::StoreKVArgs store_args(const TensorView& k_cache, const TensorView& v_cache, const TensorView& k, const TensorView& v,
                             const TensorView& slot_ids, cuda::CacheScales scales) {
    const cuda::ElementType type = check_rows(k, "k", {"tokens", "kv_heads", "head_dim"});
    const cuda::CacheType cache_type = check_caches(k_cache, v_cache, type, scales);
    const int64_t kv_heads = k_cache.shape[1], block_size = k_cache.shape[2], head_dim = k_cache.shape[3];
    check_rows(k, "k", type, {"tokens", kv_heads, head_dim});
    check_rows(v, "v", type, {k.shape[0], kv_heads, head_dim});
    check(slot_ids, "slot_ids", DType::int64, {k.shape[0]});
    return {k_cache.data,
            v_cache.data,
            k.data,
            v.data,
            slot_ids.as<const int64_t>(),
            {k.stride[0], k.stride[1]},
            {v.stride[0], v.stride[1]},
            k.shape[0],
            kv_heads,
            block_size,
            head_dim,
            type,
            cache_type,
            scales};
}

void store_kv(const TensorView& k_cache, const TensorView& v_cache, const TensorView& k, const TensorView& v,
              const TensorView& slot_ids, float k_scale, float v_scale) {
    cuda::store_kv(store_args(k_cache, v_cache, k, v, slot_ids, {k_scale, v_scale}), stream_of(k_cache));
}

cuda::RotaryStoreKVArgs rotary_args(const cuda::StoreKVArgs& store, const TensorView& q, const TensorView& positions,
                                    const TensorView& cos_sin) {
    check_rows(q, "q", store.type, {store.tokens, "heads", store.head_dim});
    check(positions, "positions", DType::int32, {store.tokens});
    check_rows(cos_sin, "cos_sin", cuda::ElementType::float32, {"positions", "rotary_dim"});
    check_multiple("cos_sin's rotary_dim", cos_sin.shape[1], 16, store.head_dim);
    return {store,
            q.data,
            positions.as<const int32_t>(),
            cos_sin.as<const float>(),
            {q.stride[0], q.stride[1]},
            cos_sin.stride[0],
            q.shape[1],
            cos_sin.shape[1]};
}

void rotary_store_kv(const TensorView& k_cache, const TensorView& v_cache, const TensorView& q, const TensorView& k,
                     const TensorView& v, const TensorView& slot_ids, const TensorView& positions, const TensorView& cos_sin,
                     float k_scale, float v_scale) {
    const cuda::StoreKVArgs store = store_args(k_cache, v_cache, k, v, slot_ids, {k_scale, v_scale});
    cuda::rotary_store_kv(rotary_args(store, q, positions, cos_sin), stream_of(k_cache));
}

void norm_rotary_store_kv(const TensorView& k_cache, const TensorView& v_cache, const TensorView& q, const TensorView& k,
                          const TensorView& v, const TensorView& slot_ids, const TensorView& q_weight,
                          const TensorView& k_weight, float eps, const TensorView& positions, const TensorView& cos_sin,
                          float k_scale, float v_scale) {
    const cuda::StoreKVArgs store = store_args(k_cache, v_cache, k, v, slot_ids, {k_scale, v_scale});
    check_rows(q, "q", store.type, {store.tokens, "heads", store.head_dim});
    cuda::RotaryStoreKVArgs rotary = {store, q.data, nullptr, nullptr, {q.stride[0], q.stride[1]}, 0, q.shape[1], 0};
    if (cos_sin.given()) rotary = rotary_args(store, q, positions, cos_sin);
    check(q_weight, "q_weight", DType::float32, {"dim"});
    const bool of_all_heads = q_weight.shape[0] != store.head_dim;
    check_multiple("head_dim", store.head_dim, 8, cuda::kMaxNormedHeadDim);
    check_vector(q_weight, "q_weight", of_all_heads ? rotary.heads * store.head_dim : store.head_dim);
    check_vector(k_weight, "k_weight", of_all_heads ? store.kv_heads * store.head_dim : store.head_dim);
    if (of_all_heads) {
        check_multiple("q_weight", q_weight.shape[0], 8, cuda::kMaxNormDim);
        check_multiple("k_weight", k_weight.shape[0], 8, cuda::kMaxNormDim);
        for (const auto& [tensor, name] : {std::pair(&q, "q"), std::pair(&k, "k")})
            if (tensor->stride[1] != store.head_dim) refuse("%s: expected heads that lie side by side", name);
    }
    cuda::norm_rotary_store_kv(
        {rotary, q_weight.as<const float>(), k_weight.as<const float>(), eps, of_all_heads}, stream_of(k_cache));
}

using Pairs = std::vector<std::pair<int64_t, int64_t>>;

template <void (*kCopy)(const cuda::CopyBlocksArgs&, cuda::Stream)>
void copy(const TensorView& planes, const Pairs& pairs, int64_t block_bytes) {
    check_whole(planes, "planes", DType::int64, {"num_planes", 2});
    check_multiple("block_bytes", block_bytes, 16, INT32_MAX);
    std::vector<int64_t> flat;
    flat.reserve(2 * pairs.size());
    for (const auto& [source, target] : pairs) {
        if (source < 0 || source > INT32_MAX || target < 0 || target > INT32_MAX)
            refuse("pairs: expected block numbers, got (%lld, %lld)", static_cast<long long>(source),
                   static_cast<long long>(target));
        flat.push_back(source);
        flat.push_back(target);
    }
    kCopy({planes.as<const int64_t>(), flat.data(), planes.shape[0], static_cast<int64_t>(pairs.size()), block_bytes},
          stream_of(planes));
}

}  // namespace

void bind_store_kv(nb::module_& module) { module.def("store_kv", store_kv); }
void bind_rotary_store_kv(nb::module_& module) { module.def("rotary_store_kv", rotary_store_kv); }
void bind_norm_rotary_store_kv(nb::module_& module) {
    module.def("norm_rotary_store_kv", norm_rotary_store_kv, nb::arg("k_cache"), nb::arg("v_cache"), nb::arg("q"), nb::arg("k"),
               nb::arg("v"), nb::arg("slot_ids"), nb::arg("q_weight"), nb::arg("k_weight"), nb::arg("eps"),
               nb::arg("positions").none(), nb::arg("cos_sin").none(), nb::arg("k_scale"), nb::arg("v_scale"));
}
void bind_copy_blocks(nb::module_& module) { module.def("copy_blocks", copy<cuda::copy_blocks>); }
void bind_swap_blocks(nb::module_& module) { module.def("swap_blocks", copy<cuda::swap_blocks>); }

}  // namespace pagecli
