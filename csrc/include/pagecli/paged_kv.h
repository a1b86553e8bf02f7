// The paged KV cache and the two operations on it. One block of one layer, KV head by KV head:
//
//   v_cache[block]  h = 0: [s = 0: head_dim values][s = 1: ...] ... [s = block_size - 1]   h = 1: ...
//   k_cache[block]  h = 0: [d = 0: block_size slots][d = 1: ...] ... [d = head_dim - 1]    h = 1: ...
//
// K lies dimension by dimension, so that the CPU's vectors hold one dimension of several keys. int8: a slot of a head has a
// scale too, a float32, in V as four bytes after its values, in K as four rows of block_size bytes after the last dimension: a
// value is byte * scale. So a block is one run of memory whatever its type, and moves as a whole.
#pragma once

#include <stdint.h>

namespace pagecli {

enum class KVType : int32_t { float32, bfloat16, int8 };

constexpr int64_t kKVScaleBytes = 4;

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

// Attention of every new token over its sequence's whole context, causal (see devices/reference/operations.py).
struct PagedAttentionArgs {
    float* out;                   // [tokens, heads, head_dim]
    const float* q;               // [tokens, heads, head_dim]
    const void* k_cache;          // [num_blocks, kv_heads, head_dim (int8: + kKVScaleBytes), block_size]
    const void* v_cache;          // [num_blocks, kv_heads, block_size, head_dim (int8: + kKVScaleBytes)]
    const int32_t* block_tables;  // [sequences, max_blocks]
    const int32_t* context_lens;  // [sequences]
    const int32_t* query_start;   // [sequences + 1]
    int64_t out_stride[2], q_stride[2], block_tables_stride;
    int64_t sequences, heads, kv_heads, block_size, head_dim;
    int64_t window;  // 0: none
    float scale;
    KVType type;
};

constexpr int64_t kMaxHeadDim = 256;

}  // namespace pagecli
