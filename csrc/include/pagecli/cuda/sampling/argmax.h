// Arguments of argmax on the GPU: greedy decoding.
#pragma once

#include "pagecli/cuda/device.h"

namespace pagecli::cuda {

struct ArgmaxArgs {
    int64_t* out;    // [rows]: the first of equal ones; -1 where a value is NaN or +inf, or all are -inf
    const float* x;  // [rows, cols], cols > 0; any alignment
    int64_t x_stride, rows, cols;
};

void argmax(const ArgmaxArgs& args, Stream stream);

}  // namespace pagecli::cuda
