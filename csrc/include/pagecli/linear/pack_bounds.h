// Arguments of pack_bounds: make the quantized upper bounds (quantized_bounds.h) of an LM head, once at load.
#pragma once

#include "pagecli/linear/quantized_bounds.h"

namespace pagecli {

struct PackBoundsArgs {
    void* bounds;  // bounds_words(weight.rows, weight.cols) 32-bit words, written completely
    PackedWeightView weight;
    bool* usable;  // false where a row of the weight is not finite, or so large that bounds would not be
};

}  // namespace pagecli
