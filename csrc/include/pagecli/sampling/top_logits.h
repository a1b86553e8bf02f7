// top_logits: what log probabilities of some rows of logits are made of: the largest logits, and the row's normalizer.
#pragma once

#include <stdint.h>

namespace pagecli {

struct TopLogitsArgs {
    int64_t* ids;         // [num, count], where a row's largest logits stand, largest first, of equal ones the first; NaN is the least
    float* values;        // [num, count], what they are
    float* normalizers;   // [num, 2]: the largest, log(sum(e^(x - largest))); NaN where no token can be chosen
    const float* logits;  // [any, cols]
    const int64_t* rows;  // [num], of logits
    int64_t logits_stride, cols, num, count;  // count is at most cols
};

}  // namespace pagecli
