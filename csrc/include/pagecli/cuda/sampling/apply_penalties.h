// Arguments of the penalties on tokens that a sequence knows already (repetition, presence, frequency) on the GPU.
#pragma once

#include "pagecli/cuda/device.h"

namespace pagecli::cuda {

// Of each row the tokens that its sequence knows, each once, but for the last one, which the host may not know yet: it is read
// from the step's own tokens. The row's last entry is for that one.
struct ApplyPenaltiesArgs {
    float* logits;               // [.., cols]; any alignment
    const int32_t* rows;         // [rows]: of the logits, each once
    const float* penalties;      // [rows, 3]: repetition (1: none), presence, frequency (0: none)
    const int32_t* offsets;      // [rows + 1]: entries of each, at least one
    int32_t* ids;                // [entries]; the last of a row is set: the last token, or -1 where it is known already
    int32_t* counts;             // [entries]: how often in the output; of the last of a row: 1 where it is output; changed
    float* before;               // [entries]: the logits as they were
    const int32_t* token_ids;    // the step's
    const int32_t* last_tokens;  // [rows]: where each row's last token stands there
    int64_t logits_stride, num_rows, cols;
};

void apply_penalties(const ApplyPenaltiesArgs& args, Stream stream);

}  // namespace pagecli::cuda
