// Arguments of paged_attention.
#pragma once

#include "pagecli/attention/kv_cache.h"

namespace pagecli {

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
    float cap;            // scores become cap * tanh(score / cap); 0: they stay
    const float* slopes;  // [heads]: what a score falls by for each token between query and key (ALiBi); null: nothing
    const float* sinks;   // [heads]: a score more in the softmax, of no value (attention sinks); null: none
};

}  // namespace pagecli
