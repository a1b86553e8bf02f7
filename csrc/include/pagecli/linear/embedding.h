// Arguments of the embedding lookup: out[t] = weight[token_ids[t]], widened to float32.
#pragma once

#include <stdint.h>

#include "pagecli/linear/packed_weight.h"

namespace pagecli {

struct EmbeddingArgs {
    float* out;                // [tokens, weight.cols], rows out_stride elements apart
    const int32_t* token_ids;  // [tokens], each in [0, weight.rows): checked by the caller
    int64_t out_stride;
    int64_t tokens;
    PackedWeightView weight;
};

}  // namespace pagecli
