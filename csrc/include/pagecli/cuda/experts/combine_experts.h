// Arguments of the weighted sum of a token's experts on the GPU.
#pragma once

#include "pagecli/cuda/device.h"

namespace pagecli::cuda {

// out[t] = weights[t, 0] * x[t, 0] + weights[t, 1] * x[t, 1] + ... in this order, and last shared[t], times sigmoid(gate[t])
// where that is given. Choices of negative weights are left out.
struct CombineExpertsArgs {
    void* out;             // [tokens, width]
    const void* x;         // [tokens, chosen, width], one row after another
    const float* weights;  // [tokens, chosen], one row after another
    const void* shared;    // [tokens, width], or null
    const float* gate;     // [tokens, 1], or null
    int64_t out_stride, shared_stride, gate_stride;
    int64_t tokens, chosen, width;  // width a multiple of 8
    ElementType type;               // of out, x and shared
};

void combine_experts(const CombineExpertsArgs& args, Stream stream);

}  // namespace pagecli::cuda
