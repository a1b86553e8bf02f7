// The paged KV cache on the GPU, and what writes into it. The layout is the CPU's: cache[num_blocks, kv_heads, block_size,
// head_dim]; slot s of the pool is block s / block_size at s % block_size. block_size is a power of two.
#pragma once

#include "pagecli/cuda/device.h"

namespace pagecli::cuda {

// Write k and v into their slots, as they are or with k rotated.
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

// Rotate q in place and k on its way into the cache: "neox" order, dimension i with i + rotary_dim / 2.
struct RotaryStoreKVArgs {
    StoreKVArgs store;
    void* q;                   // [tokens, heads, head_dim]
    const int32_t* positions;  // [tokens], each below the rows of cos_sin
    const float* cos_sin;      // [positions, rotary_dim]: rotary_dim / 2 cosines, then as many sines
    int64_t q_stride[2], cos_sin_stride;
    int64_t heads, rotary_dim;  // rotary_dim a multiple of 16, at most head_dim
};

// Copy whole blocks in every plane (K or V of a layer) at once; between two memories for swapping.
struct CopyBlocksArgs {
    const int64_t* planes;  // on the device: [num_planes, 2]: addresses of the target's and the source's block 0
    const int64_t* pairs;   // on the host: [num_pairs, 2]: source block, target block; later pairs see what earlier ones wrote
    int64_t num_planes, num_pairs, block_bytes;  // block_bytes a multiple of 16
};

void store_kv(const StoreKVArgs& args, Stream stream);
void rotary_store_kv(const RotaryStoreKVArgs& args, Stream stream);
void copy_blocks(const CopyBlocksArgs& args, Stream stream);

// The same where one side is pinned host memory, which the GPU reads and writes at its own address: few threads, that run
// beside the step's kernels and keep the bus busy.
void swap_blocks(const CopyBlocksArgs& args, Stream stream);

// How many of pairs[first:] can be copied in any order: none reads or writes what another of them writes. At most `most`.
int64_t count_independent(const int64_t* pairs, int64_t num_pairs, int64_t most);

}  // namespace pagecli::cuda
