// Arguments of the activation functions on the GPU, with the bias of the layer before them.
#pragma once

#include "pagecli/activation.h"
#include "pagecli/cuda/device.h"

namespace pagecli::cuda {

// out = kind(x + bias); out may be x.
struct BiasActivationArgs {
    void* out;          // [tokens, dim]
    const void* x;      // [tokens, dim]
    const float* bias;  // [dim], or null
    int64_t out_stride, x_stride;
    int64_t tokens, dim;  // dim a multiple of 8
    Activation kind;
    ElementType type;
};

// out = kind(gate + bias) * (up + bias)
struct GatedActivationArgs {
    void* out;            // [tokens, dim]
    const void* gate_up;  // [tokens, 2 * dim]: gate, then up
    const float* bias;    // [2 * dim], or null
    int64_t out_stride, gate_up_stride;
    int64_t tokens, dim;
    Activation kind;
    ElementType type;
};

void bias_activation(const BiasActivationArgs& args, Stream stream);
void gated_activation(const GatedActivationArgs& args, Stream stream);

}  // namespace pagecli::cuda
