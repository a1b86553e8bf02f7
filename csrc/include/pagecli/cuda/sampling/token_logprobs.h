// Arguments of reading the chosen tokens' log probabilities on the GPU: under the model itself, before penalties and masks.
#pragma once

#include "pagecli/cuda/device.h"

namespace pagecli::cuda {

struct TokenLogprobsArgs {
    float* out;                // [wanted]; NaN where no token was chosen
    const int64_t* tokens;     // the step's chosen tokens
    const float* logits;       // [.., cols]; any alignment
    const float* normalizers;  // [.., 2], of log_normalizers
    const int32_t* wanted;     // [wanted, 5]: which token, its row of logits, its normalizers, its row's first entry of
                               // apply_penalties, the end of these
    const int32_t* ids;        // entries of apply_penalties, and the logits before it
    const float* before;
    int64_t logits_stride, num_wanted;
};

void token_logprobs(const TokenLogprobsArgs& args, Stream stream);

}  // namespace pagecli::cuda
