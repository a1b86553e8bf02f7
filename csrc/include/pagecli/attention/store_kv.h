// Arguments of store_kv.
#pragma once

#include "pagecli/attention/kv_cache.h"

namespace pagecli {

// Write one step's k and v into their slots; slot s is in block s / block_size at s % block_size.
struct StoreKVArgs {
    void* k_cache;            // [num_blocks, kv_heads, head_dim (int8: + kKVScaleBytes), block_size]
    void* v_cache;            // [num_blocks, kv_heads, block_size, head_dim (int8: + kKVScaleBytes)]
    const float* k;           // [tokens, kv_heads, head_dim]
    const float* v;           // [tokens, kv_heads, head_dim]
    const int64_t* slot_ids;  // [tokens], each below num_blocks * block_size
    int64_t k_stride[2], v_stride[2];
    int64_t tokens, kv_heads, block_size, head_dim;
    KVType type;
};

}  // namespace pagecli
