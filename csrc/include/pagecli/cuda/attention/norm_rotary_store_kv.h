// Arguments of norm_rotary_store_kv: rms_norm of queries and keys, the rotary embedding and store_kv in one.
#pragma once

#include "pagecli/cuda/attention/rotary_store_kv.h"

namespace pagecli::cuda {

// q and k of every token normed, head by head or all heads together, and rounded; then as rotary_store_kv, or where rotary_dim
// is 0 as store_kv.
struct NormRotaryStoreKVArgs {
    RotaryStoreKVArgs rotary;  // positions and cos_sin null where rotary_dim is 0
    const float* q_weight;     // [head_dim], or where of_all_heads [heads * head_dim]
    const float* k_weight;     // [head_dim], or [kv_heads * head_dim]
    float eps;
    bool of_all_heads;  // heads then lie side by side, of at most kMaxNormDim numbers
};

constexpr int64_t kMaxNormedHeadDim = 256;  // a warp holds a head

void norm_rotary_store_kv(const NormRotaryStoreKVArgs& args, Stream stream);

}  // namespace pagecli::cuda
