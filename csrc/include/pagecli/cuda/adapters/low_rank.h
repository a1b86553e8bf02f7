// Arguments of low_rank on the GPU: what LoRA adapters (Hu et al., 2021) add to a linear layer's output, of any number of
// adapters in one batch.
#pragma once

#include "pagecli/cuda/device.h"

namespace pagecli::cuda {

constexpr int kAdapterTileRows = 8;

// out[t] += (x[t] @ a[r].T) @ b[r] of the ranks r = starts[i] .. starts[i + 1] - 1 of a tile's adapter i, for each row t of the
// tile. Tiles come from the host: an adapter (-1: the tile is empty) and its rows (-1: none). Rows in no tile are left alone.
// Sums are in float32, in an order that depends on k and on the adapter alone.
struct LowRankArgs {
    void* out;             // [tokens, n]
    const void* x;         // [tokens, k]
    const float* a;        // [ranks of all adapters, k]
    const float* b;        // [ranks of all adapters, n], scaled
    const int32_t* starts;  // [adapters + 1]
    const int32_t* tiles;  // [num_tiles, 1 + kAdapterTileRows]
    float* inner;          // [num_tiles, kAdapterTileRows, most_ranks]: x @ a.T
    int64_t out_stride, x_stride;
    int64_t num_tiles, most_ranks, k, n;  // k and n multiples of 8
    ElementType type;                     // of out and x
};

void low_rank(const LowRankArgs& args, Stream stream);

}  // namespace pagecli::cuda
