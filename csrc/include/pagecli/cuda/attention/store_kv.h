// The paged KV cache on the GPU, and what writes into it. The layout is the CPU's: cache[num_blocks, kv_heads, block_size,
// head_dim]; slot s of the pool is block s / block_size at s % block_size. block_size is a power of two.
#pragma once

#include "pagecli/cuda/device.h"

namespace pagecli::cuda {

// Write k and v into their slots.
struct StoreKVArgs {
    void* k_cache;            // [num_blocks, kv_heads, block_size, head_dim]
    void* v_cache;            // the same
    const void* k;            // [tokens, kv_heads, head_dim]
    const void* v;            // [tokens, kv_heads, head_dim]
    const int64_t* slot_ids;  // [tokens]; negative: a padding row, written nowhere
    int64_t k_stride[2], v_stride[2];
    int64_t tokens, kv_heads, block_size, head_dim;  // head_dim a multiple of 8, of 16 for a cache in e4m3
    ElementType type;                                // of k and v
    CacheType cache_type;
    CacheScales scales;
};

void store_kv(const StoreKVArgs& args, Stream stream);

}  // namespace pagecli::cuda
