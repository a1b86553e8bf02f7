// argmax: the index of each row's largest logit, the first of equal ones; greedy decoding. -1 where no token can be chosen: a
// logit is NaN or +inf, or all are -inf.
#pragma once

#include <stdint.h>

namespace pagecli {

struct ArgmaxArgs {
    int64_t* out;    // [rows]
    const float* x;  // [rows, cols], cols > 0
    int64_t x_stride, rows, cols;
};

}  // namespace pagecli
