// Arguments of what keeps tokens from being chosen on the GPU: a mask of a row, or single ones.
#pragma once

#include "pagecli/cuda/device.h"

namespace pagecli::cuda {

struct MaskLogitsArgs {
    float* logits;           // [.., cols]; any alignment
    const int32_t* rows;     // [rows]: of the logits
    const uint32_t* masks;   // [rows, ceil(cols / 32)]: bit i % 32 of word i / 32 is 0: logit i becomes -inf
    int64_t logits_stride, num_rows, cols;
};

void mask_logits(const MaskLogitsArgs& args, Stream stream);

struct ForbidTokensArgs {
    float* logits;         // [.., cols]; any alignment
    const int32_t* rows;   // [pairs]
    const int32_t* ids;    // [pairs]: logits[rows[i], ids[i]] = -inf
    int64_t logits_stride, num_pairs;
};

void forbid_tokens(const ForbidTokensArgs& args, Stream stream);

}  // namespace pagecli::cuda
