// Arguments of masked_argmax: greedy decoding straight from the hidden states, of rows that may not choose every output.
#pragma once

#include "pagecli/linear/packed_weight.h"
#include "pagecli/sampling/token_mask.h"

namespace pagecli {

// As linear_argmax (linear_argmax.h) among the outputs that each row's mask allows. Panels in which no row may choose are not
// computed, rows that may choose in few panels are computed there alone, and a row that may choose one output takes it.
struct MaskedArgmaxArgs {
    int64_t* out;    // [tokens]
    const float* x;  // [tokens, weight.cols], rows x_stride elements apart
    int64_t x_stride, tokens;
    PackedWeightView weight;  // 0 < rows < 2^32
    const void* bounds;       // of the rows that may choose in many panels (quantized_bounds.h); or null
    TokenMasks masks;
    int64_t* num_bounded;  // one number: rows that the bounds were used for
    int64_t* num_computed;  // and the panels computed from the weights for them
};

}  // namespace pagecli
