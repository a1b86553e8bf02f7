// Arguments of pruned_argmax.
#pragma once

#include "pagecli/linear/quantized_bounds.h"

namespace pagecli {

// linear_argmax (linear_argmax.h) by the quantized upper bounds of a.weight. Rows of x for which they prune too few panels are
// computed from all weights.
struct PrunedArgmaxArgs {
    int64_t* out;    // [tokens]
    const float* x;  // [tokens, weight.cols], rows x_stride elements apart
    int64_t x_stride, tokens;
    PackedWeightView weight;  // 0 < rows < 2^32
    const void* bounds;
    int64_t* num_computed;  // one number: panels computed from the weights, of all rows together
};

}  // namespace pagecli
