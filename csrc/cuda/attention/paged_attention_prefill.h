// Prefill: chunks of any length behind any cached prefix, causal, with or without a sliding window; tiles of 64 rows, where a
// row is one query of one query head and a KV head's query heads share the pass over its keys.
#pragma once

#include "paged_attention_mma.h"

namespace pagecli::cuda {

// blockIdx.x: tile of rows; blockIdx.y: KV head.
template <class T, class C, int kHeadDim>
__global__ void __launch_bounds__(MmaShape<C, kHeadDim, false>::kThreads) prefill_kernel(PrefillArgs p) {
    using S = MmaShape<C, kHeadDim, false>;
    const RowTile tile = p.tiles[blockIdx.x];
    if (tile.sequence < 0) return;
    const PagedAttentionArgs& a = p.attention;
    const int group = static_cast<int>(a.heads / a.kv_heads), kv_head = static_cast<int>(blockIdx.y);
    const int first_query = p.query_start[tile.sequence], num_queries = p.query_start[tile.sequence + 1] - first_query;
    const int first_position = p.context_lens[tile.sequence] - num_queries;
    const int window = static_cast<int>(p.window), rows_left = num_queries * group - tile.first_row;
    const int num_rows = rows_left < S::kRows ? rows_left : S::kRows;
    const auto position = [&](int row) { return first_position + (tile.first_row + row) / group; };
    const auto first_visible = [&](int at) { return window > 0 && at >= window ? at - window + 1 : 0; };

    T* memory = static_cast<T*>(ptx::dynamic_shared());
    const Rows<T, S::kChunks> q = {memory};
    for (int i = static_cast<int>(threadIdx.x); i < S::kRows * S::kChunks; i += S::kThreads) {
        const int row = i / S::kChunks, dim = i % S::kChunks * kVec, packed_row = tile.first_row + row;
        Vec<T> values = {};
        if (row < num_rows && dim < a.head_dim)
            values = load_vec(static_cast<const T*>(a.q) + (first_query + packed_row / group) * a.q_stride[0] +
                              (kv_head * group + packed_row % group) * a.q_stride[1] + dim);
        store_q<C>(q, row, dim / kVec, values);
    }
    const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
    // Rows beyond the last see what it sees, so that no sum is empty. A lane's rows are lane / 4 and that + 8 of its warp's.
    const auto kept_row = [&](int row) { return warp * kMmaRows + row < num_rows ? warp * kMmaRows + row : num_rows - 1; };
    const int last_seen[2] = {position(kept_row(lane / 4)), position(kept_row(lane / 4 + 8))};
    const int first_seen[2] = {first_visible(last_seen[0]), first_visible(last_seen[1])};
    const int first = position(0), last = position(num_rows - 1);
    MmaState<C, kHeadDim> state;
    attend_tiles<T, C, kHeadDim, false>(state, memory, a, key_places(a, tile.sequence, kv_head), first_visible(first), last + 1,
                                        first_visible(last), first + 1,
                                        [&](int half, int key) { return key > last_seen[half] || key < first_seen[half]; });
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int row = warp * kMmaRows + lane / 4 + half * 8, packed_row = tile.first_row + row;
        if (row >= num_rows) continue;
        const int64_t head = kv_head * group + packed_row % group;
        const float share = a.v_scale / divisor(a, head, state.max[half], state.sum[half]);
        T* out = static_cast<T*>(a.out) + (first_query + packed_row / group) * a.out_stride[0] + head * a.out_stride[1];
#pragma unroll
        for (int index = 0; index < kHeadDim / 8; ++index) {
            const DimPair pair = state.pair(index, half, lane);
            if (pair.dim < a.head_dim)
                *reinterpret_cast<uint32_t*>(out + pair.dim) = packed<T>(pair.low * share, pair.high * share);
        }
    }
}

template <class T, class C, int kHeadDim>
void launch_prefill(const PrefillArgs& p, Stream stream) {
    using S = MmaShape<C, kHeadDim, false>;
    launch<prefill_kernel<T, C, kHeadDim>, S::kBytes>({p.num_tiles, p.attention.kv_heads, 1, S::kThreads, stream}, p);
}

template <class T, class C>
void prefill(const PrefillArgs& p, Stream stream) {
    if (p.attention.head_dim <= 64) return launch_prefill<T, C, 64>(p, stream);
    if (p.attention.head_dim <= 128) return launch_prefill<T, C, 128>(p, stream);
    launch_prefill<T, C, 256>(p, stream);
}

}  // namespace pagecli::cuda
