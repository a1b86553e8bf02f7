// Arguments of router: which experts each token goes to, and with what weights.
#pragma once

#include <stdint.h>

namespace pagecli {

// ids[t] = the `chosen` experts of the largest logits, the largest first, of equal ones the one of the smaller number;
// weights[t, c] = softmax(logits[t])[ids[t, c]], divided by the sum of the chosen ones' where `normalize`. A row with a logit that is
// NaN has weights that are NaN, and some experts.
struct RouterArgs {
    int32_t* ids;         // [tokens, chosen]
    float* weights;       // [tokens, chosen]
    const float* logits;  // [tokens, experts]
    int64_t ids_stride, weights_stride, logits_stride;
    int64_t tokens, experts, chosen;  // chosen <= experts
    bool normalize;
};

}  // namespace pagecli
