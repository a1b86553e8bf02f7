// Arguments of argmax on the GPU: greedy decoding.
#pragma once

#include "pagecli/cuda/device.h"

namespace pagecli::cuda {

struct ArgmaxArgs {
    int64_t* out;   // [rows]: the first of equal ones; -1 where a value is NaN or +inf, or all are -inf
    const void* x;  // [rows, cols], cols > 0; float32, bfloat16 or float16; any alignment
    int64_t x_stride, rows, cols;
    ElementType type;
};

void argmax(const ArgmaxArgs& args, Stream stream);

}  // namespace pagecli::cuda
