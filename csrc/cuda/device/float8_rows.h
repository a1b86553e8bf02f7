// Rows in 8-bit floats, each with a scale of its own, by a block of threads: the largest magnitude first, then the elements.
#pragma once

#include "float8.h"
#include "launch.h"
#include "reduce.h"

namespace pagecli::cuda {

// The scale of a row whose largest magnitude is `largest`, and what its elements are multiplied by.
__device__ inline float e4m3_scale(float largest) { return largest > 0.0f ? largest / kMaxE4M3 : 1.0f; }
__device__ inline float e4m3_share(float largest) { return largest > 0.0f ? kMaxE4M3 / largest : 1.0f; }

// Rounds to the model's type, as the row would be stored without 8 bits, and raises `largest` to the largest magnitude.
template <class T>
__device__ inline void round_and_measure(float (&values)[kVec], float& largest) {
#pragma unroll
    for (float& value : values) {
        value = to_float(from_float<T>(value));
        largest = fmaxf(largest, fabsf(value));
    }
}

__device__ inline void store_in_e4m3(E4M3* to, float (&values)[kVec], float share) {
#pragma unroll
    for (float& value : values) value *= share;
    store_floats(to, values);
}

// compute(values, vec) gives eight elements; called twice for each, as what it reads is then in the cache and a row of any size
// fits. `partial`: of reduce.h.
template <class T, class Compute>
__device__ void store_row_in_e4m3(E4M3* out, float* scale, int64_t dim, float* partial, const Compute& compute) {
    const int num_vecs = static_cast<int>(dim / kVec), step = static_cast<int>(blockDim.x);
    float largest = 0.0f, unused = 0.0f;
    for (int vec = static_cast<int>(threadIdx.x); vec < num_vecs; vec += step) {
        float values[kVec];
        compute(values, vec);
        round_and_measure<T>(values, largest);
    }
    largest = block_max(largest, partial);
    if (threadIdx.x == 0) *scale = e4m3_scale(largest);
    for (int vec = static_cast<int>(threadIdx.x); vec < num_vecs; vec += step) {
        float values[kVec];
        compute(values, vec);
        round_and_measure<T>(values, unused);
        store_in_e4m3(out + vec * kVec, values, e4m3_share(largest));
    }
}

constexpr int kMaxRowThreads = 512;

inline int row_threads(int64_t dim) { return whole_warps(dim / kVec, kMaxRowThreads); }

}  // namespace pagecli::cuda
