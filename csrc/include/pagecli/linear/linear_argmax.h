// Arguments of linear_argmax: greedy decoding straight from the hidden states.
#pragma once

#include "pagecli/linear/packed_weight.h"

namespace pagecli {

// out[r] = index of the largest of row r's sums x @ weight^T, the first of equal ones; -1 where a sum is NaN or +inf, or all are
// -inf. What argmax says of linear's out, without that out: an LM head's is 64 times as wide as x.
struct LinearArgmaxArgs {
    int64_t* out;    // [tokens]
    const float* x;  // [tokens, weight.cols], rows x_stride elements apart
    int64_t x_stride, tokens;
    PackedWeightView weight;  // 0 < rows < 2^32
};

}  // namespace pagecli
