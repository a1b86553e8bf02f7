// Sums and maxima over the lanes of a warp and the threads of a block; every thread receives the result. The order of addition
// is fixed, so a row's result does not depend on the rows beside it.
#pragma once

#include "platform.h"

namespace pagecli::cuda {

constexpr int kMaxWarps = 32;

// In each group of `count` lanes, a power of two: what a warp's sum is with zeros beside them. Called by the warp.
template <class T>
__device__ inline T group_sum(T x, int count) {
#pragma unroll
    for (int lanes = count / 2; lanes > 0; lanes /= 2) x += __shfl_xor_sync(kAllLanes, x, lanes);
    return x;
}

template <class T>
__device__ inline T warp_sum(T x) {
    return group_sum(x, kWarp);
}

// `partial` is shared memory for kMaxWarps values; the block may use it again after its next barrier.
__device__ inline float block_sum(float x, float* partial) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
    const int num_warps = static_cast<int>(blockDim.x) / kWarp;
    x = warp_sum(x);
    if (lane == 0) partial[warp] = x;
    __syncthreads();
    return warp_sum(lane < num_warps ? partial[lane] : 0.0f);
}

__device__ inline float warp_max(float x) {
#pragma unroll
    for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, lanes));
    return x;
}

// The same for the largest of values that are 0 or more.
__device__ inline float block_max(float x, float* partial) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
    const int num_warps = static_cast<int>(blockDim.x) / kWarp;
    x = warp_max(x);
    if (lane == 0) partial[warp] = x;
    __syncthreads();
    return warp_max(lane < num_warps ? partial[lane] : 0.0f);
}

}  // namespace pagecli::cuda
