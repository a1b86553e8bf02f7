// Bindings of the operations on the paged KV cache. Slots, blocks and lengths are checked here: the kernels trust them.
#include "bind.h"
#include "pagecli/attention/copy_blocks.h"
#include "pagecli/isa.h"
#include "recording.h"
#include "tensors/check.h"
#include "tensors/check_sequences.h"

namespace nb = nanobind;

namespace pagecli {
namespace {

KVType check_caches(const TensorView& k_cache, const TensorView& v_cache) {
    check(k_cache, "k_cache", {DType::float32, DType::bfloat16, DType::int8},
          {"num_blocks", "kv_heads", "head_dim", "block_size"});
    check(v_cache, "v_cache", k_cache.dtype, {k_cache.shape[0], k_cache.shape[1], k_cache.shape[3], k_cache.shape[2]});
    check_contiguous(k_cache, "k_cache");
    check_contiguous(v_cache, "v_cache");
    if (k_cache.dtype != DType::int8) return k_cache.dtype == DType::float32 ? KVType::float32 : KVType::bfloat16;
    if (k_cache.shape[2] <= kKVScaleBytes)
        refuse("k_cache: expected head_dim + %lld bytes a slot (int8 and a scale), got %lld", static_cast<long long>(kKVScaleBytes),
               static_cast<long long>(k_cache.shape[2]));
    return KVType::int8;
}

int64_t head_dim_of(const TensorView& k_cache, KVType type) {
    return k_cache.shape[2] - (type == KVType::int8 ? kKVScaleBytes : 0);
}

void store_kv(const TensorView& k_cache, const TensorView& v_cache, const TensorView& k, const TensorView& v,
              const TensorView& slot_ids, RecordedProgram* program) {
    const KVType type = check_caches(k_cache, v_cache);
    const int64_t head_dim = head_dim_of(k_cache, type);
    check(k, "k", DType::float32, {"tokens", k_cache.shape[1], head_dim});
    check(v, "v", DType::float32, {k.shape[0], k_cache.shape[1], head_dim});
    check(slot_ids, "slot_ids", DType::int64, {k.shape[0]});
    check_ids(slot_ids, "slot_ids", k_cache.shape[0] * k_cache.shape[3]);
    const StoreKVArgs args = {k_cache.data,
                              v_cache.data,
                              k.as<const float>(),
                              v.as<const float>(),
                              slot_ids.as<const int64_t>(),
                              {k.stride[0], k.stride[1]},
                              {v.stride[0], v.stride[1]},
                              k.shape[0],
                              k_cache.shape[1],
                              k_cache.shape[3],
                              head_dim,
                              type};
    if (program != nullptr) return program->add_store(args, k_cache.shape[0] * k_cache.shape[3]);
    nb::gil_scoped_release release;
    kernels().store_kv(args);
}

void paged_attention(const TensorView& out, const TensorView& q, const TensorView& k_cache, const TensorView& v_cache,
                     const TensorView& block_tables, const TensorView& context_lens, const TensorView& query_start, float scale,
                     int64_t window, float cap, const TensorView& slopes, const TensorView& sinks, RecordedProgram* program) {
    const KVType type = check_caches(k_cache, v_cache);
    const int64_t kv_heads = k_cache.shape[1], head_dim = head_dim_of(k_cache, type);
    check(q, "q", DType::float32, {"tokens", "heads", head_dim});
    check(out, "out", DType::float32, {q.shape[0], q.shape[1], head_dim});
    check(block_tables, "block_tables", DType::int32, {"sequences", "max_blocks"});
    check(context_lens, "context_lens", DType::int32, {block_tables.shape[0]});
    check(query_start, "query_start", DType::int32, {block_tables.shape[0] + 1});
    if (head_dim < 1 || head_dim > kMaxHeadDim)
        refuse("k_cache: expected a head_dim of 1 to %lld, got %lld", static_cast<long long>(kMaxHeadDim),
               static_cast<long long>(head_dim));
    if (kv_heads < 1 || q.shape[1] % kv_heads != 0)
        refuse("q: expected heads to be a multiple of kv_heads %lld, got %lld", static_cast<long long>(kv_heads),
               static_cast<long long>(q.shape[1]));
    if (window < 0) refuse("window: expected 0 (none) or more, got %lld", static_cast<long long>(window));
    if (!(cap >= 0)) refuse("cap: expected 0 (none) or more, got %g", static_cast<double>(cap));
    if (slopes.given()) check(slopes, "slopes", DType::float32, {q.shape[1]});
    if (sinks.given()) check(sinks, "sinks", DType::float32, {q.shape[1]});
    const PagedAttentionArgs args = {out.as<float>(),
                                     q.as<const float>(),
                                     k_cache.data,
                                     v_cache.data,
                                     block_tables.as<const int32_t>(),
                                     context_lens.as<const int32_t>(),
                                     query_start.as<const int32_t>(),
                                     {out.stride[0], out.stride[1]},
                                     {q.stride[0], q.stride[1]},
                                     block_tables.stride[0],
                                     block_tables.shape[0],
                                     q.shape[1],
                                     kv_heads,
                                     k_cache.shape[3],
                                     head_dim,
                                     window,
                                     scale,
                                     type,
                                     cap,
                                     slopes.as<const float>(),
                                     sinks.as<const float>()};
    check_sequences(args, q.shape[0], block_tables.shape[1], k_cache.shape[0]);
    if (program != nullptr) return program->add_attention(args, q.shape[0], k_cache.shape[0]);
    nb::gil_scoped_release release;
    kernels().paged_attention(args);
}

void bound_copy_blocks(const TensorView& target, const TensorView& source, const TensorView& pairs) {
    check(source, "source", {DType::float32, DType::bfloat16, DType::int8}, {"num_blocks", "kv_heads", "rows", "columns"});
    check_contiguous(source, "source");
    check(target, "target", source.dtype, {"num_blocks", source.shape[1], source.shape[2], source.shape[3]});
    check_contiguous(target, "target");
    check_whole(pairs, "pairs", DType::int64, {"num_pairs", 2});
    const int64_t* ids = pairs.as<const int64_t>();
    for (int64_t i = 0; i < 2 * pairs.shape[0]; ++i) {
        const int64_t limit = i % 2 == 0 ? source.shape[0] : target.shape[0];
        if (ids[i] < 0 || ids[i] >= limit)
            refuse("pairs[%lld, %lld]: expected a block below %lld, got %lld", static_cast<long long>(i / 2),
                   static_cast<long long>(i % 2), static_cast<long long>(limit), static_cast<long long>(ids[i]));
    }
    const int64_t element_bytes = source.dtype == DType::float32 ? 4 : source.dtype == DType::bfloat16 ? 2 : 1;
    const CopyBlocksArgs args = {target.as<char>(), source.as<const char>(), ids, pairs.shape[0],
                                 source.shape[1] * source.shape[2] * source.shape[3] * element_bytes};
    nb::gil_scoped_release release;
    copy_blocks(args);
}

}  // namespace

void bind_store_kv(nb::module_& module) {
    module.def("store_kv", store_kv, nb::arg("k_cache"), nb::arg("v_cache"), nb::arg("k"), nb::arg("v"), nb::arg("slot_ids"),
               nb::arg("program").none());
}
void bind_paged_attention(nb::module_& module) {
    module.def("paged_attention", paged_attention, nb::arg("out"), nb::arg("q"), nb::arg("k_cache"), nb::arg("v_cache"),
               nb::arg("block_tables"), nb::arg("context_lens"), nb::arg("query_start"), nb::arg("scale"), nb::arg("window"),
               nb::arg("cap"), nb::arg("slopes").none(), nb::arg("sinks").none(), nb::arg("program").none());
}
void bind_copy_blocks(nb::module_& module) { module.def("copy_blocks", bound_copy_blocks); }

}  // namespace pagecli
