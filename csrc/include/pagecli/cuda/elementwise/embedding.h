// Arguments of the embedding lookup on the GPU: out[t] = weight[token_ids[t]] (+ positions_weight[positions[t] + offset]).
#pragma once

#include "pagecli/cuda/device.h"

namespace pagecli::cuda {

struct EmbeddingArgs {
    void* out;                     // [tokens, dim]
    const int32_t* token_ids;      // [tokens], each a row of weight; negative: a padding row, written as zeros
    const void* weight;            // [vocab, dim]
    const int32_t* positions;      // [tokens], or null
    const void* positions_weight;  // [rows, dim], or null: learned positions (OPT)
    int64_t position_offset;
    int64_t out_stride, weight_stride, positions_stride;
    int64_t tokens, dim;  // dim a multiple of 8
    ElementType type;
};

void embedding(const EmbeddingArgs& args, Stream stream);

}  // namespace pagecli::cuda
