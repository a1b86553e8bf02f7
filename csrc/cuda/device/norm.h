// What the norms of rows share: how many threads take a row and in which order they sum, so that a row's norm has the same bits
// in whichever kernel.
#pragma once

#include "element.h"
#include "launch.h"
#include "pagecli/cuda/elementwise/rms_norm.h"

namespace pagecli::cuda {

constexpr int kMaxNormThreads = 1024, kUsualNormThreads = 256;
constexpr int kMaxNormVecs = kMaxNormDim / kVec / kMaxNormThreads;  // of a thread

// A vector or a few for each of about 256 threads; long rows take more threads. Thread t has vectors t, t + threads, ...
inline int norm_threads(int64_t dim) {
    const int64_t vecs = dim / kVec;
    int64_t each = divide_up(vecs, kUsualNormThreads);
    if (each > kMaxNormVecs) each = kMaxNormVecs;
    return static_cast<int>(divide_up(divide_up(vecs, each), kWarp) * kWarp);
}

__device__ inline void add_squares(float& sum, const float (&values)[kVec]) {
#pragma unroll
    for (const float value : values) sum += value * value;
}

// What a row is multiplied by before its weight.
__device__ inline float norm_scale(float squares, int64_t dim, float eps) {
    return rsqrtf(squares / static_cast<float>(dim) + eps);
}

__device__ inline void scale_by(float (&values)[kVec], float scale, const float* weight) {
    float weights[kVec];
    load_floats(weights, weight);
#pragma unroll
    for (int i = 0; i < kVec; ++i) values[i] = values[i] * scale * weights[i];
}

}  // namespace pagecli::cuda
