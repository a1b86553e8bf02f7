// Linear layers of float32 weights: a warp for a few rows of the weight and a few tokens, its lanes along the columns. The order
// of a sum hangs on the number of columns alone.
#include "device/element.h"
#include "device/launch.h"
#include "device/reduce.h"
#include "pagecli/cuda/experts/exact_linear.h"

namespace pagecli::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / kWarp;
constexpr int kTokens = 8, kRows = 2;  // of a warp

template <class T>
__global__ void __launch_bounds__(kThreads) exact_linear_kernel(ExactLinearArgs a) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
    const int64_t first_token = static_cast<int64_t>(blockIdx.x) * kTokens;
    const int64_t first_row = (static_cast<int64_t>(blockIdx.y) * kWarps + warp) * kRows;
    if (first_row >= a.rows) return;
    const int64_t second_row = first_row + 1 < a.rows ? first_row + 1 : first_row;
    const T* x = static_cast<const T*>(a.x) + first_token * a.x_stride;
    const int tokens = a.tokens - first_token < kTokens ? static_cast<int>(a.tokens - first_token) : kTokens;
    float sums[kTokens][kRows] = {};
    for (int64_t at = lane * kVec; at < a.cols; at += kWarp * kVec) {
        float weight[kRows][kVec];
        load_floats(weight[0], a.weight + first_row * a.cols + at);
        load_floats(weight[1], a.weight + second_row * a.cols + at);
#pragma unroll
        for (int t = 0; t < kTokens; ++t) {
            if (t >= tokens) break;
            float values[kVec];
            load_floats(values, x + t * a.x_stride + at);
#pragma unroll
            for (int r = 0; r < kRows; ++r)
#pragma unroll
                for (int i = 0; i < kVec; ++i) sums[t][r] = fmaf(values[i], weight[r][i], sums[t][r]);
        }
    }
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
        if (t >= tokens) break;
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
            const float sum = warp_sum(sums[t][r]);
            const int64_t row = first_row + r;
            if (lane == 0 && row < a.rows)
                a.out[(first_token + t) * a.out_stride + row] = a.bias != nullptr ? sum + a.bias[row] : sum;
        }
    }
}

}  // namespace

void exact_linear(const ExactLinearArgs& a, Stream stream) {
    if (a.tokens == 0 || a.rows == 0) return;
    const LaunchShape shape = {divide_up(a.tokens, kTokens), divide_up(a.rows, kWarps * kRows), 1, kThreads, stream};
    with_element_type(a.type, [&](auto element) { launch<exact_linear_kernel<decltype(element)>>(shape, a); });
}

}  // namespace pagecli::cuda
