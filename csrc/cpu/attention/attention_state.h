// What attention keeps of a task's query rows, and how a tile of keys and values is handed to the functions that work on it.
#pragma once

#include "key_group.h"
#include "kv_slot.h"
#include "pagecli/attention/paged_attention.h"

namespace pagecli::PAGECLI_ISA {

constexpr int kTileKeys = 32;  // tiles start at positions that are multiples of this
constexpr int kTileGroups = kTileKeys / kGroupKeys;
constexpr int kMaxRows = 24;   // query rows of a task
constexpr int kTileRows = 6;   // of these, computed together

// Floats from one row to the next; not a power of two, or the same dimensions of all rows would fall into one set of the cache.
constexpr int kRowStride = static_cast<int>(kMaxHeadDim) + 16;

struct AttentionState {
    alignas(64) float q[kMaxRows][kRowStride];         // query times scale
    alignas(64) float sum[kMaxRows][kRowStride];       // sum over keys of weight * v
    alignas(64) float weights[kTileRows][kTileKeys];   // of the rows computed together
    alignas(64) float value_scales[kTileKeys];         // int8: of the tile's V
    float max[kMaxRows];                               // highest score so far, a sink's included
    float total[kMaxRows];                             // sum of weights
    float slopes[kMaxRows];                            // ALiBi, where `has_slopes`
    float distances[kTileRows];                        // with slopes: from the tile's first key to each row computed together
    float cap;                                         // 0: none
    bool has_slopes;
};

// Where a tile lies in the caches, in elements, for the first KV head. Places without a key the task sees repeat one it sees.
struct TileOffsets {
    int64_t values[kTileKeys];        // each key's slot of V
    int64_t keys[kTileGroups];        // dimension 0 of each 16 keys of K
    int64_t key_scales[kTileGroups];  // int8: their scales
};

// One tile of one KV head. `next` is the tile to bring into the cache meanwhile, or null.
template <class T>
struct Tile {
    const T* keys[kTileGroups];
    const T* key_scales[kTileGroups];
    int64_t key_stride;  // from one dimension of a key to the next
    const T* v_cache;    // offsets.values count from here
    const TileOffsets* offsets;
    const TileOffsets* next;
    const T *next_k_cache, *next_v_cache;
    int dim;
};

// The keys [low, high) of a tile that a row sees; not empty. Neither bound falls from a row to the next.
struct KeyRange {
    int low, high;
};

}  // namespace pagecli::PAGECLI_ISA
