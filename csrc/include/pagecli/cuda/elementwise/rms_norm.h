// Arguments of rms_norm on the GPU, fused with the addition of the residual before them.
#pragma once

#include "pagecli/cuda/device.h"

namespace pagecli::cuda {

// x += added, where that is given; out = x / sqrt(mean(x^2) + eps) * weight over the last dimension; with scales in e4m3, as
// quantize_rows makes it of that rounded to `type`.
struct RmsNormArgs {
    void* out;            // [tokens, heads, dim]; may be x
    void* x;              // [tokens, heads, dim]; changed only if `added` is given
    const void* added;    // [tokens, heads, dim] or null: what x grows by before it is normed
    const float* weight;  // [dim]
    float* scales;        // [tokens], or null; with scales heads is 1, dim a multiple of 16 and `type` has 16 bits
    int64_t out_stride[2], x_stride[2], added_stride[2];
    int64_t tokens, heads, dim;  // dim a multiple of 8, at most 32768
    float eps;
    ElementType type;
};

constexpr int64_t kMaxNormDim = 32768;

void rms_norm(const RmsNormArgs& args, Stream stream);

}  // namespace pagecli::cuda
