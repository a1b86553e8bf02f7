// The weighted sum of a tile's values: lanes are dimensions, keys come in order, one multiply-add for each and dimension.
#pragma once

#include "attention_state.h"

namespace pagecli::PAGECLI_ISA {

template <class T>
PAGECLI_INLINE void prefetch_slot(const T* slot, int dim) {
    constexpr int kLine = 64 / sizeof(T);
    __builtin_prefetch(slot, 0, kFetchLocality);
    __builtin_prefetch(slot + kLine, 0, kFetchLocality);  // nearly all heads have 64 dimensions or more
    for (int d = 2 * kLine; d < slot_elements<T>(dim); d += 2 * kLine) {
        __builtin_prefetch(slot + d, 0, kFetchLocality);
        __builtin_prefetch(slot + d + kLine, 0, kFetchLocality);
    }
}

// The key of the next tile whose value comes near while key `i` is added: two of each group in turn. And the first for the four keys
// from `i` on, which need not be at a multiple of four.
constexpr int fetched_with(int i) { return fetches_groups_in_turn ? i / 4 * 2 + i % 4 / 2 * kGroupKeys + i % 2 : i; }
constexpr int first_fetched_with(int i) { return fetches_groups_in_turn ? i / 4 * 2 : i; }

// Vectors of dimensions whose sums for `rows` rows stay in registers.
constexpr int value_chunks(int rows) {
    if (rows == 1) return 8;
    return VecF::width == 16 || rows <= 3 ? 4 : 2;
}

// Rows first_row on, whose weights for the tile's keys are at `weights`, kTileKeys apart.
struct WeightedRows {
    int first_row;
    const float* weights;
    const float* rescale;  // brings each row's earlier sums to its new max
};

// sums[r] += weights[r] * the dimensions of one value that start at v.
template <int rows, int chunks, class T>
PAGECLI_INLINE void add_value(VecF (&sums)[rows][chunks], const float* weights, const T* v, int rest) {
    if constexpr (chunks == 1) {
        const VecF part = rest > 0 ? load_kv(v, rest) : load_kv(v);
        PAGECLI_UNROLL
        for (int r = 0; r < rows; ++r) accumulate(sums[r][0], broadcast(weights[r * kTileKeys]), part);
    } else {
        PAGECLI_UNROLL
        for (int c = 0; c < chunks; c += 2) {
            const VecF first = load_first(v + c * VecF::width), second = load_second(v + c * VecF::width);
            PAGECLI_UNROLL
            for (int r = 0; r < rows; ++r) {
                const VecF weight = broadcast(weights[r * kTileKeys]);
                accumulate(sums[r][c], weight, first);
                accumulate(sums[r][c + 1], weight, second);
            }
            if constexpr (rows > 1) weights = opaque(weights);  // read again, or weights and sums would not fit the registers
        }
    }
}

// sum[row][d] = sum[row][d] * rescale[row] + weights[row] . v[keys][d] for `chunks` vectors of dimensions from d on, two at a
// time as load_first and load_second read them; a single one as it lies, `rest` lanes of it where rest > 0.
template <int rows, int chunks, class T>
static inline void add_chunks(AttentionState& state, const Tile<T>& tile, const WeightedRows& w, KeyRange keys, int d,
                              int rest = 0) {
    constexpr int width = VecF::width, kStep = 4;
    const bool prefetches = tile.next != nullptr && d == 0;
    const T* v = tile.v_cache + d;
    float* to = &state.sum[w.first_row][d];
    VecF sums[rows][chunks];
    PAGECLI_UNROLL
    for (int r = 0; r < rows; ++r)
        PAGECLI_UNROLL
        for (int c = 0; c < chunks; ++c) sums[r][c] = load(to + r * kRowStride + c * width) * broadcast(w.rescale[r]);
    const float* weights = w.weights + keys.low;
    const int64_t* at = tile.offsets->values + keys.low;
    int left = keys.high - keys.low;
    for (; left >= kStep; left -= kStep, at += kStep, weights += kStep) {
        if (prefetches) {
            const int64_t* next = tile.next->values + first_fetched_with(keys.high - left);
            PAGECLI_UNROLL
            for (int i = 0; i < kStep; ++i) prefetch_slot(tile.next_v_cache + next[fetched_with(i)], tile.dim);
        }
        PAGECLI_UNROLL
        for (int i = 0; i < kStep; ++i) add_value<rows, chunks>(sums, weights + i, v + at[i], rest);
    }
    for (; left > 0; --left, ++at, ++weights) add_value<rows, chunks>(sums, weights, v + *at, rest);
    PAGECLI_UNROLL
    for (int r = 0; r < rows; ++r)
        PAGECLI_UNROLL
        for (int c = 0; c < chunks; ++c) store(to + r * kRowStride + c * width, sums[r][c]);
}

// The same for all dimensions.
template <int rows, class T>
static inline void add_values(AttentionState& state, const Tile<T>& tile, const WeightedRows& w, KeyRange keys) {
    constexpr int chunks = value_chunks(rows), width = VecF::width;
    const int paired = paired_dims(tile.dim);
    int d = 0;
    for (; d + chunks * width <= paired; d += chunks * width) add_chunks<rows, chunks>(state, tile, w, keys, d);
    if constexpr (chunks > 4) {
        for (; d + 4 * width <= paired; d += 4 * width) add_chunks<rows, 4>(state, tile, w, keys, d);
    }
    if constexpr (chunks > 2) {
        for (; d < paired; d += 2 * width) add_chunks<rows, 2>(state, tile, w, keys, d);
    }
    for (; d + width <= tile.dim; d += width) add_chunks<rows, 1>(state, tile, w, keys, d);
    if (d < tile.dim) add_chunks<rows, 1>(state, tile, w, keys, d, tile.dim - d);
}

}  // namespace pagecli::PAGECLI_ISA
