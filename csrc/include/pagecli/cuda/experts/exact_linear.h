// Arguments of linear layers whose weights stay float32 on the GPU: routers, and gates of a shared expert.
#pragma once

#include "pagecli/cuda/device.h"

namespace pagecli::cuda {

// out = x @ weight.T + bias; a row's result has the same bits in every batch.
struct ExactLinearArgs {
    float* out;           // [tokens, rows]
    const void* x;        // [tokens, cols]
    const float* weight;  // [rows, cols], one row after another
    const float* bias;    // [rows], or null
    int64_t out_stride, x_stride;
    int64_t tokens, rows, cols;  // cols a multiple of 8
    ElementType type;            // of x
};

void exact_linear(const ExactLinearArgs& args, Stream stream);

}  // namespace pagecli::cuda
