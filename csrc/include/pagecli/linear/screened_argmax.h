// Arguments of screened_argmax.
#pragma once

#include "pagecli/linear/screen.h"

namespace pagecli {

// linear_argmax (linear_argmax.h) by a screen of a.weight. Rows of x whose bounds leave too many panels are computed without it.
struct ScreenedArgmaxArgs {
    int64_t* out;    // [tokens]
    const float* x;  // [tokens, weight.cols], rows x_stride elements apart
    int64_t x_stride, tokens;
    PackedWeightView weight;  // 0 < rows < 2^32
    const void* screen;
    int64_t* num_computed;  // one number: panels computed from the weights, of all rows together
};

}  // namespace pagecli
