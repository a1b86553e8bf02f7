// The update of LoRA adapters, for tiles of up to 8 rows of one adapter (grouped as in Chen et al., "Punica", MLSys 2024): the
// adapter's matrices are read once for a tile. Two kernels: into the ranks, and out of them onto the layer's output.
#include "device/element.h"
#include "device/launch.h"
#include "device/reduce.h"
#include "pagecli/cuda/adapters/low_rank.h"

namespace pagecli::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / kWarp;
constexpr int kRows = kAdapterTileRows;
constexpr int kRanks = 4;  // of a block of shrink_kernel
constexpr int kRowsAtOnce = 4;   // of a thread of expand_kernel
constexpr int kInnerRanks = 64;  // whose inner products a block of expand_kernel holds at a time

struct Tile {
    int adapter, rows[kRows];
};

__device__ inline const Tile& tile_at(const LowRankArgs& a, int64_t index) {
    return reinterpret_cast<const Tile*>(a.tiles)[index];
}

// inner[row, rank] = x[row] . a[rank] for kRanks ranks of one tile: each thread sums its share of k, then the block's threads'
// sums are added, those of a warp first.
template <class T>
__global__ void __launch_bounds__(kThreads) shrink_kernel(LowRankArgs a) {
    PAGECLI_SHARED_ARRAY(float, partial, kWarps * kRows * kRanks);
    const Tile& tile = tile_at(a, blockIdx.x);
    if (tile.adapter < 0) return;
    const int64_t start = a.starts[tile.adapter], ranks = a.starts[tile.adapter + 1] - start;
    const int64_t first = static_cast<int64_t>(blockIdx.y) * kRanks;
    if (first >= ranks) return;
    float sums[kRows][kRanks] = {};
    for (int64_t at = static_cast<int64_t>(threadIdx.x) * kVec; at < a.k; at += kThreads * kVec) {
        float down[kRanks][kVec];
#pragma unroll
        for (int r = 0; r < kRanks; ++r) {
            const int64_t rank = first + r < ranks ? first + r : first;  // a rank too many is summed and not written
            load_floats(down[r], a.a + (start + rank) * a.k + at);
        }
#pragma unroll
        for (int row = 0; row < kRows; ++row) {
            const int token = tile.rows[row];
            if (token < 0) continue;
            float x[kVec];
            load_floats(x, static_cast<const T*>(a.x) + token * a.x_stride + at);
#pragma unroll
            for (int r = 0; r < kRanks; ++r) {
#pragma unroll
                for (int i = 0; i < kVec; ++i) sums[row][r] += x[i] * down[r][i];
            }
        }
    }
    const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
#pragma unroll
        for (int r = 0; r < kRanks; ++r) {
            const float sum = warp_sum(sums[row][r]);
            if (lane == 0) partial[warp * kRows * kRanks + row * kRanks + r] = sum;
        }
    }
    __syncthreads();
    const int mine = static_cast<int>(threadIdx.x);
    if (mine >= kRows * kRanks || first + mine % kRanks >= ranks) return;
    float total = 0.0f;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) total += partial[w * kRows * kRanks + mine];
    const int64_t slot = static_cast<int64_t>(blockIdx.x) * kRows + mine / kRanks;
    a.inner[slot * a.most_ranks + first + mine % kRanks] = total;
}

// out[row] += inner[row] @ b for 8 columns of each thread, the ranks in order.
template <class T>
__global__ void __launch_bounds__(kThreads) expand_kernel(LowRankArgs a) {
    PAGECLI_SHARED_ARRAY(float, inner, kRows * kInnerRanks);
    const Tile& tile = tile_at(a, blockIdx.x);
    if (tile.adapter < 0) return;
    const int64_t start = a.starts[tile.adapter], ranks = a.starts[tile.adapter + 1] - start;
    if (ranks == 0) return;
    const int64_t column = (static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x) * kVec;
    const float* of_tile = a.inner + static_cast<int64_t>(blockIdx.x) * kRows * a.most_ranks;
#pragma unroll 1
    for (int from = 0; from < kRows; from += kRowsAtOnce) {
        if (tile.rows[from] < 0) return;  // of a tile the first rows are there
        float sums[kRowsAtOnce][kVec] = {};
#pragma unroll 1
        for (int64_t first = 0; first < ranks; first += kInnerRanks) {
            const int count = static_cast<int>(ranks - first < kInnerRanks ? ranks - first : kInnerRanks);
            __syncthreads();  // the ones before have been read
            for (int i = static_cast<int>(threadIdx.x); i < kRowsAtOnce * count; i += kThreads)
                inner[i / count * kInnerRanks + i % count] = of_tile[(from + i / count) * a.most_ranks + first + i % count];
            __syncthreads();
            if (column >= a.n) continue;
            const float* next = a.b + (start + first) * a.n + column;
#pragma unroll 1
            for (int r = 0; r < count; ++r, next += a.n) {
                float up[kVec];
                load_floats(up, next);
#pragma unroll
                for (int row = 0; row < kRowsAtOnce; ++row) {
                    const float factor = inner[row * kInnerRanks + r];
#pragma unroll
                    for (int i = 0; i < kVec; ++i) sums[row][i] += factor * up[i];
                }
            }
        }
        if (column >= a.n) continue;
#pragma unroll
        for (int row = 0; row < kRowsAtOnce; ++row) {
            const int token = tile.rows[from + row];
            if (token < 0) continue;
            T* out = static_cast<T*>(a.out) + token * a.out_stride + column;
            float values[kVec];
            load_floats(values, out);
#pragma unroll
            for (int i = 0; i < kVec; ++i) values[i] += sums[row][i];
            store_floats(out, values);
        }
    }
}

}  // namespace

void low_rank(const LowRankArgs& a, Stream stream) {
    if (a.num_tiles == 0 || a.most_ranks == 0) return;
    const LaunchShape into = {a.num_tiles, divide_up(a.most_ranks, kRanks), 1, kThreads, stream};
    const LaunchShape out_of = {a.num_tiles, divide_up(a.n, kThreads * kVec), 1, kThreads, stream};
    with_element_type(a.type, [&](auto element) {
        launch<shrink_kernel<decltype(element)>>(into, a);
        launch<expand_kernel<decltype(element)>>(out_of, a);
    });
}

}  // namespace pagecli::cuda
