// Arguments of combine_experts: what a token's experts computed, weighted and added in the order of its choices.
#pragma once

#include <stdint.h>

namespace pagecli {

// out[t] (+)= ((weights[t, 0] * x[t, 0] + weights[t, 1] * x[t, 1]) + ...) + sigmoid(gate[t]) * shared[t]
struct CombineExpertsArgs {
    float* out;            // [tokens, width]
    const float* x;        // [tokens, chosen, width], a token's rows side by side
    const float* weights;  // [tokens, chosen]
    const float* shared;   // [tokens, width] of the expert that every token goes to, or null
    const float* gate;     // [tokens, 1], or null: shared counts once
    int64_t out_stride, x_stride, weights_stride, shared_stride, gate_stride;
    int64_t tokens, chosen, width;
    bool accumulate;  // add to out (a residual) instead of overwriting it
};

}  // namespace pagecli
