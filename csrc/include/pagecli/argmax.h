// argmax: the index of each row's largest value, the first of equal ones; greedy decoding. NaN is never it; of nothing but NaN
// it is 0.
#pragma once

#include <stdint.h>

namespace pagecli {

struct ArgmaxArgs {
    int64_t* out;    // [rows]
    const float* x;  // [rows, cols], cols > 0
    int64_t x_stride, rows, cols;
};

}  // namespace pagecli
