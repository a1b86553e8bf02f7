// Arguments of the gated activation functions on the GPU, with the bias of the layer before them.
#pragma once

#include "pagecli/cuda/device.h"
#include "pagecli/elementwise/activation.h"

namespace pagecli::cuda {

// out = kind(gate) * up; limit > 0: gate * sigmoid(alpha * gate) * (up + 1) of gates up to the limit and ups within it on both
// sides; NaN stays NaN; with scales in e4m3, as quantize_rows makes it of that rounded to `type`
struct GatedActivationArgs {
    void* out;            // [tokens, dim]
    const void* gate_up;  // [tokens, 2 * dim]: gate, then up
    const float* bias;    // [2 * dim], or null
    float* scales;        // [tokens], or null; with scales dim is a multiple of 16 and `type` has 16 bits
    int64_t out_stride, gate_up_stride;
    int64_t tokens, dim;
    Activation kind;
    float limit, alpha;
    ElementType type;
};

void gated_activation(const GatedActivationArgs& args, Stream stream);

}  // namespace pagecli::cuda
