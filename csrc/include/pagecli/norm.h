// Arguments of the normalizations. Strides count elements; the last dimension is contiguous.
#pragma once

#include <stdint.h>

namespace pagecli {

// out = x / sqrt(mean(x^2) + eps) * weight, over the last dimension; out may be x.
struct RmsNormArgs {
    float* out;           // [tokens, heads, dim]
    const float* x;       // [tokens, heads, dim]
    const float* weight;  // [dim]
    int64_t out_stride[2], x_stride[2];
    int64_t tokens, heads, dim;
    float eps;
};

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
