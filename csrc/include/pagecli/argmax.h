// argmax: the index of each row's largest value; greedy decoding.
#pragma once

#include <stdint.h>

namespace pagecli {

struct ArgmaxArgs {
    int64_t* out;    // [rows]
    const float* x;  // [rows, cols], cols > 0
    int64_t x_stride, rows, cols;
};

}  // namespace pagecli
