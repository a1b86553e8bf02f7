// Arguments of the activation functions on the GPU, with the bias of the layer before them.
#pragma once

#include "pagecli/cuda/device.h"
#include "pagecli/elementwise/activation.h"

namespace pagecli::cuda {

// out = kind(x + bias); out may be x; with scales in e4m3, as quantize_rows makes it of that rounded to `type`.
struct BiasActivationArgs {
    void* out;          // [tokens, dim]
    const void* x;      // [tokens, dim]
    const float* bias;  // [dim], or null
    float* scales;      // [tokens], or null; with scales dim is a multiple of 16 and `type` has 16 bits
    int64_t out_stride, x_stride;
    int64_t tokens, dim;  // dim a multiple of 8
    Activation kind;
    ElementType type;
};

void bias_activation(const BiasActivationArgs& args, Stream stream);

}  // namespace pagecli::cuda
