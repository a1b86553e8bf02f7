// What attention kernels share: finding a key in the paged cache, and putting together the shares of one query head that
// several groups of lanes, or several blocks of threads, have computed (the merging of online softmaxes).
#pragma once

#include "device/float8.h"
#include "pagecli/cuda/attention/paged_attention.h"

namespace pagecli::cuda {

constexpr float kLog2E = 1.44269504088896341f;

// Where the vectors of one KV head lie: key -> element offset in either cache.
struct KeyPlaces {
    const int32_t* blocks;  // of this sequence
    int64_t kv_head, kv_heads, head_dim;
    int block_shift;  // block_size = 1 << block_shift

    __device__ int32_t block_of(int key) const { return blocks[key >> block_shift]; }
    __device__ int64_t offset(int32_t block, int key) const {
        const int slot = key & ((1 << block_shift) - 1);
        return (((static_cast<int64_t>(block) * kv_heads + kv_head) << block_shift) + slot) * head_dim;
    }
};

__device__ inline int shift_of(int64_t power_of_two) {
    int shift = 0;
    while ((int64_t{1} << shift) < power_of_two) ++shift;
    return shift;
}

__device__ inline KeyPlaces key_places(const PagedAttentionArgs& a, int64_t sequence, int64_t kv_head) {
    return {a.block_tables + sequence * a.block_tables_stride, kv_head, a.kv_heads, a.head_dim, shift_of(a.block_size)};
}

// exp2(x - max), 0 where the maximum of nothing but hidden keys is -infinity.
__device__ inline float weight_below(float x, float max) { return max == -INFINITY ? 0.0f : exp2f(x - max); }

// What the values of a query head are divided by: the sum of its keys' weights below `max` and, where heads have sinks, its own.
__device__ inline float divisor(const PagedAttentionArgs& a, int64_t head, float max, float sum) {
    return a.sinks != nullptr ? sum + exp2f(a.sinks[head] * kLog2E - max) : sum;
}

// The shares of `rows` query heads from kShares groups: maxima and sums [kShares][rows], values [kShares][rows][kHeadDim].
template <int kShares, int kHeadDim>
struct Shares {
    float *max, *sum, *values;
    int rows;

    __device__ Shares(void* memory, int num_rows) : rows(num_rows) {
        max = static_cast<float*>(memory);
        sum = max + kShares * rows;
        values = sum + kShares * rows;
    }
    static constexpr int bytes(int num_rows) { return kShares * num_rows * (kHeadDim + 2) * static_cast<int>(sizeof(float)); }

    // Element `dim` of row `row`, with the row's maximum and sum.
    __device__ float combined(int row, int dim, float& row_max, float& row_sum) const {
        row_max = -INFINITY;
#pragma unroll
        for (int s = 0; s < kShares; ++s) row_max = fmaxf(row_max, max[s * rows + row]);
        row_sum = 0.0f;
        float value = 0.0f;
#pragma unroll
        for (int s = 0; s < kShares; ++s) {
            const float weight = weight_below(max[s * rows + row], row_max);
            row_sum += weight * sum[s * rows + row];
            value += weight * values[(s * rows + row) * kHeadDim + dim];
        }
        return value;
    }
};

// Writes what a run of decode found for heads [first_head, first_head + num_heads): to out, or as a share to be merged.
template <class T, int kShares, int kHeadDim>
__device__ void write_run(const DecodeArgs& d, const KeyRun& run, const Shares<kShares, kHeadDim>& shares, int64_t first_head,
                          int num_heads) {
    const PagedAttentionArgs& a = d.attention;
    const int head_dim = static_cast<int>(a.head_dim);
    for (int i = static_cast<int>(threadIdx.x); i < num_heads * kHeadDim; i += static_cast<int>(blockDim.x)) {
        const int row = i / kHeadDim, dim = i % kHeadDim;
        if (dim >= head_dim) continue;
        float max, sum;
        const float value = shares.combined(row, dim, max, sum);
        const int64_t head = first_head + row;
        if (run.partial < 0) {
            T* out = static_cast<T*>(a.out) + run.row * a.out_stride[0] + head * a.out_stride[1];
            out[dim] = from_float<T>(value / divisor(a, head, max, sum) * a.v_scale);
        } else {
            const int64_t at = run.partial * a.heads + head;
            d.partial_out[at * head_dim + dim] = value;
            if (dim == 0) {
                d.partial_stats[2 * at] = max;
                d.partial_stats[2 * at + 1] = sum;
            }
        }
    }
}

}  // namespace pagecli::cuda
