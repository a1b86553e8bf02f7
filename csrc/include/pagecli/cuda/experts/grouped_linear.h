// Arguments of linear layers by expert on the GPU.
#pragma once

#include "pagecli/cuda/experts/sort_experts.h"

namespace pagecli::cuda {

// out[row] = x[row] @ weight[expert of row].T * scales[expert of row] + bias[expert of row], for the rows of `tiles`; row = token *
// chosen + choice. A row's result has the same bits in every batch and with either size of tile.
//
// In e4m3 each 16 columns stand in the order 0 1 8 9, 2 3 10 11, 4 5 12 13, 6 7 14 15: the four that a lane reads at once are the
// four that its part of a product takes.
struct GroupedLinearArgs {
    void* out;           // [tokens * chosen, rows], one row after another
    const void* x;       // [tokens, chosen, cols]
    const void* weight;  // [experts, rows, cols], one row after another; of x's type or, with scales, in e4m3
    const float* scales;  // [experts, rows], or null; x is bfloat16 then, cols a multiple of 16
    const float* bias;   // [experts, rows], or null
    const int32_t* order;
    const ExpertTile* tiles;
    int64_t x_stride[2];  // of tokens and choices; 0 of the latter: all of a token's choices read one row
    int64_t chosen, rows, cols;  // of the weight; both multiples of 8
    int64_t num_tiles, tile_rows;
    ElementType type;
};

constexpr int64_t kFewTileRows = 16, kManyTileRows = 64;  // float32: the few alone

void grouped_linear(const GroupedLinearArgs& args, Stream stream);

}  // namespace pagecli::cuda
