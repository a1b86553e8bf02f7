// Arguments of layer_norm. Strides count elements; the last dimension is contiguous.
#pragma once

#include <stdint.h>

namespace pagecli {

// out = (x - mean) / sqrt(var + eps) * weight + bias, over the last dimension; out may be x.
struct LayerNormArgs {
    float* out;           // [tokens, dim]
    const float* x;       // [tokens, dim]
    const float* weight;  // [dim]
    const float* bias;    // [dim]
    int64_t out_stride, x_stride;
    int64_t tokens, dim;
    float eps;
};

}  // namespace pagecli
