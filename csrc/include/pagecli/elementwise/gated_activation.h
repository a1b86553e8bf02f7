// Arguments of the gated activation functions, the MLP's of the Llama family.
#pragma once

#include "pagecli/elementwise/activation.h"

namespace pagecli {

// out = kind(gate) * up
struct GatedActivationArgs {
    float* out;            // [tokens, dim]
    const float* gate_up;  // [tokens, 2 * dim]: gate, then up
    int64_t out_stride, gate_up_stride;
    int64_t tokens, dim;
    Activation kind;
};

}  // namespace pagecli
