// The weighted sum of what a token's experts give: bound by memory, so one pass over it.
#include "device/element.h"
#include "device/launch.h"
#include "pagecli/cuda/experts/combine_experts.h"

namespace pagecli::cuda {
namespace {

constexpr int kThreads = 128;

template <class T>
__global__ void __launch_bounds__(kThreads) combine_experts_kernel(CombineExpertsArgs a) {
    const int64_t at = (static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x) * kVec, token = blockIdx.x;
    if (at >= a.width) return;
    float sum[kVec] = {}, values[kVec];
    for (int64_t c = 0; c < a.chosen; ++c) {
        const float weight = a.weights[token * a.chosen + c];
        if (weight < 0.0f) continue;
        load_floats(values, static_cast<const T*>(a.x) + (token * a.chosen + c) * a.width + at);
#pragma unroll
        for (int i = 0; i < kVec; ++i) sum[i] = fmaf(weight, values[i], sum[i]);
    }
    if (a.shared != nullptr) {
        const float gate = a.gate != nullptr ? 1.0f / (1.0f + expf(-a.gate[token * a.gate_stride])) : 1.0f;
        load_floats(values, static_cast<const T*>(a.shared) + token * a.shared_stride + at);
#pragma unroll
        for (int i = 0; i < kVec; ++i) sum[i] = fmaf(gate, values[i], sum[i]);
    }
    store_floats(static_cast<T*>(a.out) + token * a.out_stride + at, sum);
}

}  // namespace

void combine_experts(const CombineExpertsArgs& a, Stream stream) {
    if (a.tokens == 0) return;
    const LaunchShape shape = {a.tokens, divide_up(a.width, kThreads * kVec), 1, kThreads, stream};
    with_element_type(a.type, [&](auto element) { launch<combine_experts_kernel<decltype(element)>>(shape, a); });
}

}  // namespace pagecli::cuda
