// Arguments of what makes 8-bit floats of activations, for matrix products in them.
#pragma once

#include "pagecli/cuda/device.h"

namespace pagecli::cuda {

// scales[t] = the largest |x[t, :]| / 448 (1 where that is 0); out[t, :] = x[t, :] / scales[t] in e4m3.
struct QuantizeRowsArgs {
    void* out;      // [tokens, dim], one row after another
    float* scales;  // [tokens]
    const void* x;  // [tokens, dim]
    int64_t x_stride;
    int64_t tokens, dim;  // dim a multiple of 16
    ElementType type;     // of x
};

void quantize_rows(const QuantizeRowsArgs& args, Stream stream);

}  // namespace pagecli::cuda
