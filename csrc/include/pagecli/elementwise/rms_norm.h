// Arguments of rms_norm. Strides count elements; the last dimension is contiguous.
#pragma once

#include <stdint.h>

namespace pagecli {

// out (+)= x / sqrt(mean(x^2) + eps) * weight, over the last dimension; out may be x.
struct RmsNormArgs {
    float* out;           // [tokens, heads, dim]
    const float* x;       // [tokens, heads, dim]
    const float* weight;  // [dim]
    int64_t out_stride[2], x_stride[2];
    int64_t tokens, heads, dim;
    float eps;
    bool accumulate;  // add to out, which is not x then
};

}  // namespace pagecli
