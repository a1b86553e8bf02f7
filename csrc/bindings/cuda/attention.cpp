// Bindings of paged attention and of its plan. A plan's tables are int32 tensors, one row for each struct of paged_attention.h.
#include <nanobind/ndarray.h>

#include <algorithm>
#include <string_view>
#include <vector>

#include "bind.h"
#include "device_tensor.h"
#include "pagecli/cuda/attention/attention_plan.h"

namespace nb = nanobind;

namespace pagecli {
namespace {

using Ints = nb::ndarray<int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Table = nb::ndarray<int32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

constexpr int64_t kRunInts = sizeof(cuda::KeyRun) / 4, kMergeInts = sizeof(cuda::Merge) / 4,
                  kTileInts = sizeof(cuda::RowTile) / 4;

void check_width(const Table& table, const char* name, int64_t width) {
    if (static_cast<int64_t>(table.shape(1)) != width)
        refuse("%s: expected rows of %lld, got %lld", name, static_cast<long long>(width),
               static_cast<long long>(table.shape(1)));
}

int64_t choose_run_length(const Ints& num_keys, int64_t kv_heads, int64_t slots, int64_t max_runs) {
    if (kv_heads < 1 || slots < 1) refuse("kv_heads and slots: expected 1 or more");
    std::vector<int64_t> keys(num_keys.data(), num_keys.data() + num_keys.size());
    return cuda::choose_run_length(keys.data(), static_cast<int64_t>(keys.size()), kv_heads, slots, max_runs);
}

int64_t cut_into_runs(const Table& rows, int64_t run_length, const Table& runs, const Table& merges) {
    check_width(rows, "rows", sizeof(cuda::DecodeRow) / 4);
    check_width(runs, "runs", kRunInts);
    check_width(merges, "merges", kMergeInts);
    if (run_length < 1) refuse("run_length: expected 1 or more, got %lld", static_cast<long long>(run_length));
    return cuda::cut_into_runs(reinterpret_cast<const cuda::DecodeRow*>(rows.data()), static_cast<int64_t>(rows.shape(0)),
                               run_length, reinterpret_cast<cuda::KeyRun*>(runs.data()), static_cast<int64_t>(runs.shape(0)),
                               reinterpret_cast<cuda::Merge*>(merges.data()), static_cast<int64_t>(merges.shape(0)));
}

int64_t cut_into_tiles(const Ints& sequences, const Ints& num_queries, const Ints& context_lens, int64_t group,
                       const Table& tiles) {
    check_width(tiles, "tiles", kTileInts);
    if (num_queries.size() != sequences.size() || context_lens.size() != sequences.size() || group < 1)
        refuse("sequences, num_queries and context_lens: expected one length and a group of 1 or more");
    return cuda::cut_into_tiles(sequences.data(), num_queries.data(), context_lens.data(),
                                static_cast<int64_t>(sequences.size()), group, reinterpret_cast<cuda::RowTile*>(tiles.data()),
                                static_cast<int64_t>(tiles.shape(0)));
}

cuda::PagedAttentionArgs attention_args(const TensorView& out, const TensorView& q, const TensorView& k_cache,
                                        const TensorView& v_cache, const TensorView& block_tables, float scale,
                                        const TensorView& sinks, cuda::CacheScales cache_scales) {
    const cuda::ElementType type = check_rows(q, "q", {"tokens", "heads", "head_dim"});
    const cuda::CacheType cache_type = check_caches(k_cache, v_cache, type, cache_scales);
    const int64_t kv_heads = k_cache.shape[1], block_size = k_cache.shape[2], head_dim = k_cache.shape[3];
    check_multiple("head_dim", head_dim, 8, cuda::kMaxAttentionHeadDim);
    if (block_size < 1 || (block_size & (block_size - 1)) != 0)
        refuse("block_size: expected a power of two, got %lld", static_cast<long long>(block_size));
    check_rows(q, "q", type, {"tokens", "heads", head_dim});
    check_rows(out, "out", type, {q.shape[0], q.shape[1], head_dim});
    check(block_tables, "block_tables", DType::int32, {"sequences", "max_blocks"});
    if (kv_heads < 1) refuse("k_cache: expected at least one KV head");
    check_multiple("heads", q.shape[1], kv_heads, 65535);
    if (sinks.given()) check_vector(sinks, "sinks", q.shape[1]);
    return {out.data,
            q.data,
            k_cache.data,
            v_cache.data,
            block_tables.as<const int32_t>(),
            sinks.as<const float>(),
            {out.stride[0], out.stride[1]},
            {q.stride[0], q.stride[1]},
            block_tables.stride[0],
            q.shape[1],
            kv_heads,
            block_size,
            head_dim,
            scale * cache_scales.k,
            type,
            cache_type,
            cache_scales.v};
}

void decode(const TensorView& out, const TensorView& q, const TensorView& k_cache, const TensorView& v_cache,
            const TensorView& block_tables, float scale, const TensorView& sinks, const TensorView& runs,
            const TensorView& merges, const TensorView& partial_out, const TensorView& partial_stats, float k_scale,
            float v_scale) {
    const cuda::PagedAttentionArgs args =
        attention_args(out, q, k_cache, v_cache, block_tables, scale, sinks, {k_scale, v_scale});
    check_whole(runs, "runs", DType::int32, {"runs", kRunInts});
    check_whole(merges, "merges", DType::int32, {"merges", kMergeInts});
    check_rows(partial_out, "partial_out", cuda::ElementType::float32, {"partials", args.heads, args.head_dim});
    check_contiguous(partial_out, "partial_out");
    check_whole(partial_stats, "partial_stats", DType::float32, {partial_out.shape[0], args.heads, 2});
    cuda::paged_attention_decode(
        {args, static_cast<const cuda::KeyRun*>(runs.data), static_cast<const cuda::Merge*>(merges.data),
         partial_out.as<float>(), partial_stats.as<float>(), runs.shape[0], merges.shape[0]},
        stream_of(q));
}

void prefill(const TensorView& out, const TensorView& q, const TensorView& k_cache, const TensorView& v_cache,
             const TensorView& block_tables, float scale, const TensorView& sinks, const TensorView& tiles,
             const TensorView& context_lens, const TensorView& query_start, int64_t window, float k_scale, float v_scale) {
    const cuda::PagedAttentionArgs args =
        attention_args(out, q, k_cache, v_cache, block_tables, scale, sinks, {k_scale, v_scale});
    if (args.type == cuda::ElementType::float32) refuse("q: expected bfloat16 or float16; float32 rows go through decode");
    check_whole(tiles, "tiles", DType::int32, {"tiles", kTileInts});
    check(context_lens, "context_lens", DType::int32, {block_tables.shape[0]});
    check(query_start, "query_start", DType::int32, {block_tables.shape[0] + 1});
    if (window < 0 || window > INT32_MAX) refuse("window: expected 0 (none) or more, got %lld", static_cast<long long>(window));
    cuda::paged_attention_prefill({args, static_cast<const cuda::RowTile*>(tiles.data), context_lens.as<const int32_t>(),
                                   query_start.as<const int32_t>(), tiles.shape[0], window},
                                  stream_of(q));
}

// The fewest of all caches that go with a model's type, named as torch names it.
int resident_decode_blocks(const char* dtype, int64_t group, int64_t head_dim) {
    check_multiple("group", group, 1, 65535);
    check_multiple("head_dim", head_dim, 8, cuda::kMaxAttentionHeadDim);
    const std::string_view name = dtype;
    const auto blocks = [&](cuda::ElementType type, cuda::CacheType cache_type) {
        return cuda::resident_decode_blocks(group, head_dim, type, cache_type);
    };
    if (name == "float32") return blocks(cuda::ElementType::float32, cuda::CacheType::model);
    if (name != "bfloat16" && name != "float16") refuse("dtype: expected float32, bfloat16 or float16, got %s", dtype);
    const auto type = name == "bfloat16" ? cuda::ElementType::bfloat16 : cuda::ElementType::float16;
    return std::min(blocks(type, cuda::CacheType::model), blocks(type, cuda::CacheType::e4m3));
}

}  // namespace

void bind_attention_plan(nb::module_& module) {
    module.def("choose_run_length", choose_run_length);
    module.def("cut_into_runs", cut_into_runs);
    module.def("cut_into_tiles", cut_into_tiles);
    module.def("resident_decode_blocks", resident_decode_blocks);
}
void bind_paged_attention_decode(nb::module_& module) {
    module.def("paged_attention_decode", decode, nb::arg("out"), nb::arg("q"), nb::arg("k_cache"), nb::arg("v_cache"),
               nb::arg("block_tables"), nb::arg("scale"), nb::arg("sinks").none(), nb::arg("runs"), nb::arg("merges"),
               nb::arg("partial_out"), nb::arg("partial_stats"), nb::arg("k_scale"), nb::arg("v_scale"));
}
void bind_paged_attention_prefill(nb::module_& module) {
    module.def("paged_attention_prefill", prefill, nb::arg("out"), nb::arg("q"), nb::arg("k_cache"), nb::arg("v_cache"),
               nb::arg("block_tables"), nb::arg("scale"), nb::arg("sinks").none(), nb::arg("tiles"), nb::arg("context_lens"),
               nb::arg("query_start"), nb::arg("window"), nb::arg("k_scale"), nb::arg("v_scale"));
}

}  // namespace pagecli
