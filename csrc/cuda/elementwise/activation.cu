// Activation functions, plain and gated, with the bias of the layer before them: bound by memory, so one pass over it. In 8-bit
// floats a row is one block's, for its scale, and elsewhere several blocks'.
#include "device/float8_rows.h"
#include "pagecli/cuda/elementwise/bias_activation.h"
#include "pagecli/cuda/elementwise/gated_activation.h"

namespace pagecli::cuda {
namespace {

constexpr int kThreads = 256;

__device__ inline float activate(Activation kind, float x) {
    switch (kind) {
        case Activation::none:
            return x;
        case Activation::relu:
            return x > 0.0f || x != x ? x : 0.0f;  // NaN stays NaN
        case Activation::gelu:
            return 0.5f * x * (1.0f + erff(x * 0.70710678f));
        case Activation::gelu_tanh:
            return 0.5f * x * (1.0f + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
        case Activation::silu:
            return x / (1.0f + expf(-x));
        case Activation::relu2:
            return x > 0.0f || x != x ? x * x : 0.0f;
    }
    return x;
}

// gate * sigmoid(alpha * gate) * (up + 1), the gate up to the limit and the up within it.
__device__ inline float clamped_gate(float gate, float up, float limit, float alpha) {
    gate = gate > limit ? limit : gate;
    up = up > limit ? limit : up < -limit ? -limit : up;
    return gate / (1.0f + expf(-alpha * gate)) * (up + 1.0f);
}

__device__ inline void add_bias(float (&x)[kVec], const float* bias, int64_t at) {
    if (bias == nullptr) return;
    float more[kVec];
    load_floats(more, bias + at);
#pragma unroll
    for (int i = 0; i < kVec; ++i) x[i] += more[i];
}

template <class T>
__device__ inline void activate_vec(float (&x)[kVec], const BiasActivationArgs& a, int64_t token, int64_t at) {
    load_floats(x, static_cast<const T*>(a.x) + token * a.x_stride + at);
    add_bias(x, a.bias, at);
#pragma unroll
    for (int i = 0; i < kVec; ++i) x[i] = activate(a.kind, x[i]);
}

template <class T>
__device__ inline void activate_vec(float (&gate)[kVec], const GatedActivationArgs& a, int64_t token, int64_t at) {
    const T* row = static_cast<const T*>(a.gate_up) + token * a.gate_up_stride;
    float up[kVec];
    load_floats(gate, row + at);
    load_floats(up, row + a.dim + at);
    add_bias(gate, a.bias, at);
    add_bias(up, a.bias, a.dim + at);
#pragma unroll
    for (int i = 0; i < kVec; ++i)
        gate[i] = a.limit > 0.0f ? clamped_gate(gate[i], up[i], a.limit, a.alpha) : activate(a.kind, gate[i]) * up[i];
}

template <class T, class Args>
__global__ void __launch_bounds__(kThreads) activation_kernel(Args a) {
    const int64_t at = (static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x) * kVec, token = blockIdx.x;
    if (at >= a.dim) return;
    float values[kVec];
    activate_vec<T>(values, a, token, at);
    store_floats(static_cast<T*>(a.out) + token * a.out_stride + at, values);
}

template <class T, class Args>
__global__ void __launch_bounds__(kMaxRowThreads) activation_narrow_kernel(Args a) {
    PAGECLI_SHARED_ARRAY(float, partial, kMaxWarps);
    const int64_t token = blockIdx.x;
    store_row_in_e4m3<T>(static_cast<E4M3*>(a.out) + token * a.out_stride, a.scales + token, a.dim, partial,
                         [&](float(&values)[kVec], int vec) { activate_vec<T>(values, a, token, vec * kVec); });
}

template <class Args>
void launch_activation(const Args& a, Stream stream) {
    if (a.tokens == 0 || a.dim == 0) return;
    if (a.scales != nullptr) {
        const LaunchShape rows = {a.tokens, 1, 1, row_threads(a.dim), stream};
        return with_cache_type(a.type, CacheType::e4m3,
                               [&](auto element, auto) { launch<activation_narrow_kernel<decltype(element), Args>>(rows, a); });
    }
    const LaunchShape shape = {a.tokens, divide_up(a.dim, kThreads * kVec), 1, kThreads, stream};
    with_element_type(a.type, [&](auto element) { launch<activation_kernel<decltype(element), Args>>(shape, a); });
}

}  // namespace

void bias_activation(const BiasActivationArgs& a, Stream stream) { launch_activation(a, stream); }

void gated_activation(const GatedActivationArgs& a, Stream stream) { launch_activation(a, stream); }

}  // namespace pagecli::cuda
