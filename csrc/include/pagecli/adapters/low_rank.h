// Arguments of low_rank: what LoRA adapters (Hu et al., 2021) add to a linear layer's output, of any number of adapters in one batch.
#pragma once

#include <stdint.h>

namespace pagecli {

// out[t] += (x[t] @ a[first:last].T) @ b[first:last], where first and last are starts[i] and starts[i + 1] of the token's adapter
// i = adapter_ids[t]; nothing where that is -1. Sums are in float32, in an order that depends on the adapter alone.
struct LowRankArgs {
    float* out;                  // [tokens, n]
    const float* x;              // [tokens, k]
    const float* a;              // [ranks of all adapters, k]
    const float* b;              // [ranks of all adapters, n], scaled
    const int32_t* starts;       // [adapters + 1]
    const int32_t* adapter_ids;  // [tokens]; null: no token has an adapter
    int64_t out_stride, x_stride;
    int64_t tokens, n, k;
};

}  // namespace pagecli
