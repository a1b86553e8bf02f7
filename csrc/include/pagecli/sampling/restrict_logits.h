// restrict_logits: logits of outputs that a row's mask leaves out become -inf. Where it allows one output, that one's logit becomes 0,
// so that it is chosen whatever the model computed.
#pragma once

#include "pagecli/sampling/token_mask.h"

namespace pagecli {

struct RestrictLogitsArgs {
    float* logits;  // [rows, cols]
    int64_t logits_stride, rows, cols;
    TokenMasks masks;
};

}  // namespace pagecli
