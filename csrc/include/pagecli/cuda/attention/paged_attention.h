// Attention over the paged cache on the GPU, in two kernels: decode (one query of a sequence, its keys cut into runs that run
// side by side and are merged) and prefill (many queries of a sequence, in tiles of rows). Which runs and tiles there are is
// planned on the host once a step, for all layers; a plan lies in device memory, so that a CUDA graph can hold the launches.
#pragma once

#include "pagecli/cuda/device.h"

namespace pagecli::cuda {

// A run of keys that one query row attends to. In decode a row is the only new token of its sequence.
struct KeyRun {
    int32_t sequence;  // row of block_tables; negative: nothing to do (a padding entry)
    int32_t row;       // of q and out
    int32_t first_key, end_key;
    int32_t partial;  // where the run's share is kept for merging; negative: it is the whole, written to out
};

// Shares [first_partial, first_partial + num_partials) make out[row].
struct Merge {
    int32_t row;  // negative: nothing to do
    int32_t first_partial, num_partials;
};

// kTileRows rows of one sequence: row r is its query r / group, the query head r % group of the KV head.
struct RowTile {
    int32_t sequence;  // negative: nothing to do
    int32_t first_row;
};
constexpr int64_t kTileRows = 64;

struct PagedAttentionArgs {
    void* out;                    // [tokens, heads, head_dim]
    const void* q;                // [tokens, heads, head_dim]
    const void* k_cache;          // [num_blocks, kv_heads, block_size, head_dim]
    const void* v_cache;          // the same
    const int32_t* block_tables;  // [sequences, max_blocks]
    const float* sinks;           // [heads], or null: a score more in each head's softmax, of no value
    int64_t out_stride[2], q_stride[2], block_tables_stride;
    int64_t heads, kv_heads, block_size, head_dim;  // block_size a power of two, head_dim a multiple of 8, at most 256
    float scale;             // of q . k, the K cache's own scale included
    ElementType type;        // of q and out
    CacheType cache_type;
    float v_scale;           // the V cache's
};

struct DecodeArgs {
    PagedAttentionArgs attention;
    const KeyRun* runs;    // [num_runs]
    const Merge* merges;   // [num_merges]
    float* partial_out;    // [partials, heads, head_dim], not divided by the sum
    float* partial_stats;  // [partials, heads, 2]: maximum (of scores in powers of two) and sum
    int64_t num_runs, num_merges;
};

struct PrefillArgs {
    PagedAttentionArgs attention;  // bfloat16 or float16
    const RowTile* tiles;          // [num_tiles]
    const int32_t* context_lens;   // [sequences]: tokens in the cache, the new ones included
    const int32_t* query_start;    // [sequences + 1]: rows of q
    int64_t num_tiles, window;     // window 0: none
};

constexpr int64_t kMaxAttentionHeadDim = 256;

void paged_attention_decode(const DecodeArgs& args, Stream stream);
void paged_attention_prefill(const PrefillArgs& args, Stream stream);
void paged_attention_decode_e4m3(const DecodeArgs& args, Stream stream);  // where the cache is e4m3
void paged_attention_prefill_e4m3(const PrefillArgs& args, Stream stream);

// Thread blocks of decode that a multiprocessor of the current device runs at once, by its registers and shared memory; group:
// query heads of a KV head.
int resident_decode_blocks(int64_t group, int64_t head_dim, ElementType type, CacheType cache_type);
int resident_decode_blocks_e4m3(int64_t group, int64_t head_dim, ElementType type);

}  // namespace pagecli::cuda
