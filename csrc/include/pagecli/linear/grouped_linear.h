// Arguments of grouped_linear: of several linear layers, each row is multiplied by the one it names.
//
// Rows of one expert are multiplied together, as `linear` multiplies that many rows: a row's result has the bits that `linear` gives it,
// whatever the others choose. Weights of experts that no row chose are not read, those of the others once (for every 4 MiB of x).
#pragma once

#include <stdint.h>

#include "pagecli/linear/packed_weight.h"

namespace pagecli {

struct GroupedLinearArgs {
    float* out;          // [tokens, chosen, weight.rows], (token, choice) out_stride elements apart
    const float* x;      // [tokens, chosen, weight.cols]
    const int32_t* ids;  // [tokens, chosen], each in [0, experts)
    const float* bias;   // [experts, weight.rows], or null
    int64_t out_stride;
    int64_t x_token_stride, x_choice_stride;  // x_choice_stride 0: all choices of a token multiply the same row
    int64_t ids_stride;
    int64_t tokens, chosen, experts;
    PackedWeightView weight;  // of the first expert
    int64_t expert_bytes;     // from one expert's packed weight to the next one's
};

}  // namespace pagecli
