// Arguments of rotary_store_kv: store_kv and the rotary embedding in one.
#pragma once

#include "pagecli/cuda/attention/store_kv.h"

namespace pagecli::cuda {

// Rotate q in place and k on its way into the cache: "neox" order, dimension i with i + rotary_dim / 2.
struct RotaryStoreKVArgs {
    StoreKVArgs store;
    void* q;                   // [tokens, heads, head_dim]
    const int32_t* positions;  // [tokens], each below the rows of cos_sin
    const float* cos_sin;      // [positions, rotary_dim]: rotary_dim / 2 cosines, then as many sines
    int64_t q_stride[2], cos_sin_stride;
    int64_t heads, rotary_dim;  // rotary_dim a multiple of 16, at most head_dim
};

void rotary_store_kv(const RotaryStoreKVArgs& args, Stream stream);

}  // namespace pagecli::cuda
