// Where a tile's keys and values lie in the paged cache. Keys of blocks that are no multiple of 16 slots are gathered first.
#pragma once

#include "attention_state.h"
#include "scratch.h"

namespace pagecli::PAGECLI_ISA {

inline bool reads_in_place(int64_t block_size) { return block_size % kGroupKeys == 0; }

// The tile that has the keys [begin, end) of a sequence, end > begin, for one KV head and, further on, those behind it.
template <class T>
static inline void find_keys(const PagedAttentionArgs& a, int64_t sequence, int64_t kv_head, int64_t begin, int64_t end,
                             TileOffsets& offsets) {
    const int64_t slot_size = slot_elements<T>(a.head_dim), block_size = a.block_size, first = begin - begin % kTileKeys;
    const int32_t* block_table = a.block_tables + sequence * a.block_tables_stride;
    const auto start_of = [&](int64_t block) { return (block_table[block] * a.kv_heads + kv_head) * block_size * slot_size; };
    int64_t slot = begin % block_size, block = begin / block_size;
    int64_t* at = offsets.values;
    for (int64_t key = begin; key < end; ++block, slot = 0) {
        const int64_t in_block = block_size - slot, count = end - key < in_block ? end - key : in_block;
        const int64_t start = start_of(block) + slot * slot_size;
        for (int64_t i = 0; i < count; ++i) at[key - first + i] = start + i * slot_size;
        key += count;
    }
    for (int64_t i = 0; i < begin - first; ++i) at[i] = at[begin - first];
    for (int64_t i = end - first; i < kTileKeys; ++i) at[i] = at[end - 1 - first];
    for (int g = 0; g < kTileGroups; ++g) {
        int64_t key = first + g * kGroupKeys;
        if (key >= end || key + kGroupKeys <= begin) key = begin - begin % kGroupKeys;
        const int64_t start = reads_in_place(block_size) ? start_of(key / block_size) : start_of(begin / block_size);
        const int64_t in_block = reads_in_place(block_size) ? key % block_size : 0;
        offsets.keys[g] = start + in_block;
        offsets.key_scales[g] = start + a.head_dim * block_size + in_block * kKVScaleBytes;
    }
}

// Lends a tile its keys: as they lie in their blocks or, where these are no whole groups, as a copy of kTileKeys slots a block.
template <class T>
class KeyReader {
public:
    KeyReader(const PagedAttentionArgs& a, int64_t sequence)
        : a_(a), block_table_(a.block_tables + sequence * a.block_tables_stride) {
        if (reads_in_place(a.block_size)) return;
        const int64_t elements = kTileKeys * slot_elements<T>(a.head_dim);
        copy_ = static_cast<T*>(thread_scratch(elements * static_cast<int64_t>(sizeof(T))));
        memset(copy_, 0, static_cast<size_t>(elements) * sizeof(T));
    }

    // Keys [begin, end) of KV head `kv_head`; k_cache is where tile.offsets counts from.
    void read(Tile<T>& tile, const T* k_cache, int64_t kv_head, int64_t begin, int64_t end) {
        if (copy_ != nullptr) copy_keys(kv_head, begin, end);
        tile.key_stride = copy_ == nullptr ? a_.block_size : kTileKeys;
        for (int g = 0; g < kTileGroups; ++g) {
            const int64_t key = g * kGroupKeys;
            tile.keys[g] = copy_ == nullptr ? k_cache + tile.offsets->keys[g] : copy_ + key;
            tile.key_scales[g] = copy_ == nullptr ? k_cache + tile.offsets->key_scales[g]
                                                  : copy_ + a_.head_dim * kTileKeys + key * kKVScaleBytes;
        }
    }

private:
    void copy_keys(int64_t kv_head, int64_t begin, int64_t end) {
        const int64_t block_size = a_.block_size, dim = a_.head_dim;
        for (int64_t key = begin; key < end;) {
            const int64_t slot = key % block_size, left = end - key, in_block = block_size - slot;
            const int64_t count = left < in_block ? left : in_block, at = key % kTileKeys;
            const T* block = static_cast<const T*>(a_.k_cache) +
                             (block_table_[key / block_size] * a_.kv_heads + kv_head) * block_size * slot_elements<T>(dim);
            copy_slots(copy_ + at, block + slot, count);
            if constexpr (has_scales<T>)
                memcpy(copy_ + dim * kTileKeys + at * kKVScaleBytes, block + dim * block_size + slot * kKVScaleBytes,
                       static_cast<size_t>(count * kKVScaleBytes));
            key += count;
        }
    }

    // All dimensions of `count` slots of a block; whole small blocks by copies of a size known here.
    void copy_slots(T* to, const T* from, int64_t count) {
        if (count == 8) return copy_dimensions(to, from, [](T* t, const T* f) { memcpy(t, f, 8 * sizeof(T)); });
        if (count == 4) return copy_dimensions(to, from, [](T* t, const T* f) { memcpy(t, f, 4 * sizeof(T)); });
        if (count == 1) return copy_dimensions(to, from, [](T* t, const T* f) { *t = *f; });
        copy_dimensions(to, from, [=](T* t, const T* f) { memcpy(t, f, static_cast<size_t>(count) * sizeof(T)); });
    }

    template <class Copy>
    void copy_dimensions(T* to, const T* from, Copy copy) {
        for (int64_t d = 0; d < a_.head_dim; ++d) copy(to + d * kTileKeys, from + d * a_.block_size);
    }

    const PagedAttentionArgs& a_;
    const int32_t* block_table_;
    T* copy_ = nullptr;
};

template <class T>
static inline void read_value_scales(AttentionState& state, const Tile<T>& tile) {
    for (int i = 0; i < kTileKeys; ++i) state.value_scales[i] = slot_scale(tile.v_cache + tile.offsets->values[i], tile.dim);
}

}  // namespace pagecli::PAGECLI_ISA
