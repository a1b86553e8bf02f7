// Arguments of the gated activation functions, the MLP's of the Llama family.
#pragma once

#include "pagecli/elementwise/activation.h"

namespace pagecli {

// out = kind(gate) * up. Clamped: out = gate * sigmoid(alpha * gate) * (up + 1) of gates up to `limit` and ups from -limit to limit.
struct GatedActivationArgs {
    float* out;            // [tokens, groups, dim]
    const float* gate_up;  // [tokens, groups, 2 * dim]: gate, then up
    int64_t out_stride[2], gate_up_stride[2];  // of a token, of a group
    int64_t tokens, groups, dim;
    Activation kind;
    float limit, alpha;  // limit 0: not clamped
};

}  // namespace pagecli
