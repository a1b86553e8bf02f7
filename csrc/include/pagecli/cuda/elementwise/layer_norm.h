// Arguments of layer_norm on the GPU, fused with the addition of the residual before it.
#pragma once

#include "pagecli/cuda/elementwise/rms_norm.h"

namespace pagecli::cuda {

// What rms_norm does, with out = (x - mean) / sqrt(var + eps) * weight + bias.
struct LayerNormArgs {
    RmsNormArgs rows;
    const float* bias;  // [dim]
};

void layer_norm(const LayerNormArgs& args, Stream stream);

}  // namespace pagecli::cuda
