// A row of logits, float32, read by one block of threads: each of its numbers once, its largest, and sums whose order is fixed.
#pragma once

#include <stdint.h>

#include "device/platform.h"

namespace pagecli::cuda {

constexpr int kRowThreads = 512, kRowWarps = kRowThreads / kWarp;

struct alignas(16) FourLogits {
    float at[4];
};

// action(i, logit) for the columns of this thread; sixteen bytes at a time where the row begins at a multiple of them.
template <class Action>
__device__ __forceinline__ void for_each_logit(const float* row, int cols, const Action& action) {
    const int thread = static_cast<int>(threadIdx.x);
    const int in_fours = reinterpret_cast<uintptr_t>(row) % sizeof(FourLogits) == 0 ? cols / 4 * 4 : 0;
    for (int first = 4 * thread; first < in_fours; first += 4 * kRowThreads) {
        const FourLogits four = *reinterpret_cast<const FourLogits*>(row + first);
#pragma unroll
        for (int i = 0; i < 4; ++i) action(first + i, four.at[i]);
    }
    for (int i = in_fours + thread; i < cols; i += kRowThreads) action(i, row[i]);
}

// The row's largest logit, for every thread of the block; +inf where one is NaN.
__device__ __forceinline__ float largest_logit(const float* row, int cols) {
    PAGECLI_SHARED_ARRAY(float, partial, kRowWarps);
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    float largest = -INFINITY;
    for_each_logit(row, cols, [&](int, float logit) { largest = fmaxf(largest, logit == logit ? logit : INFINITY); });
    for (int turn = 0; turn < 2; ++turn) {
#pragma unroll
        for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, lanes));
        if (turn == 1) break;
        if (lane == 0) partial[threadIdx.x / kWarp] = largest;
        __syncthreads();
        largest = lane < kRowWarps ? partial[lane] : -INFINITY;
    }
    return largest;
}

// The sum over the block's threads, for every thread.
template <class Total>
__device__ inline Total block_total(Total x) {
    PAGECLI_SHARED_ARRAY(Total, partial, kRowWarps);
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
    for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) x += __shfl_xor_sync(kAllLanes, x, lanes);
    if (lane == 0) partial[threadIdx.x / kWarp] = x;
    __syncthreads();
    Total total = 0;
    for (int warp = 0; warp < kRowWarps; ++warp) total += partial[warp];
    __syncthreads();
    return total;
}

template <class Total>
__device__ inline Total warp_sum_before(Total x, int lane) {  // sum over lower lanes
    Total sum = x;
#pragma unroll
    for (int lanes = 1; lanes < kWarp; lanes *= 2) {
        const Total other = __shfl_up_sync(kAllLanes, sum, static_cast<unsigned>(lanes));
        if (lane >= lanes) sum += other;
    }
    return sum - x;
}

// The run of ids that a warp walks where their order matters.
struct WarpRun {
    int begin, end;
};
__device__ inline WarpRun run_of_warp(int cols) {
    const int each = (cols + kRowThreads - 1) / kRowThreads * kWarp, begin = static_cast<int>(threadIdx.x) / kWarp * each;
    return {begin, begin + each < cols ? begin + each : cols};
}

}  // namespace pagecli::cuda
