// Scores of a tile: lanes are keys, the row's query comes one dimension at a time. The score of a key is the sum over the first
// half of the dimensions plus the sum over the others, each one multiply-add after another, however many rows share the tile.
#pragma once

#include "attention_state.h"

namespace pagecli::PAGECLI_ISA {

// Sums that stay in registers beside what is added to them.
constexpr int kMaxSums = VecF::width == 16 ? 24 : 12;

// sums[r] += q[r * kRowStride] * one dimension of the keys, which starts `at` elements behind their first one.
template <int rows, int groups, class T>
PAGECLI_INLINE void add_dimension(VecF (&sums)[rows][groups * kGroupVectors], const float* q, const T* const* keys,
                                  int64_t at) {
    PAGECLI_UNROLL
    for (int g = 0; g < groups; ++g) {
        VecF parts[kGroupVectors];
        load_keys(keys[g] + at, parts);
        PAGECLI_UNROLL
        for (int r = 0; r < rows; ++r) {
            const VecF x = broadcast(q[r * kRowStride]);
            PAGECLI_UNROLL
            for (int v = 0; v < kGroupVectors; ++v) accumulate(sums[r][g * kGroupVectors + v], x, parts[v]);
        }
    }
}

// `halves` runs of `count` dimensions, each with its sums, the second run `half` dimensions behind the first, which starts at
// dimension `first`. The next tile is prefetched at the same pace (fetches_groups_in_turn). key_stride is the tile's, 0: not known here.
template <int rows, int groups, int key_stride, int halves, class T>
PAGECLI_INLINE void add_dimensions(VecF (&sums)[halves][rows][groups * kGroupVectors], const float* q, const Tile<T>& tile,
                                   int group, int first, int half, int count) {
    constexpr int kStep = 4;
    const int64_t stride = key_stride > 0 ? key_stride : tile.key_stride;
    const T *keys[halves][groups], *next[groups] = {};
    for (int g = 0; g < groups; ++g) {
        for (int h = 0; h < halves; ++h) keys[h][g] = tile.keys[group + g] + (first + h * half) * stride;
        if (tile.next != nullptr) next[g] = tile.next_k_cache + tile.next->keys[group + g] + first * stride;
    }
    q += first;
    int64_t at = 0;
    int d = 0;
    for (; d + kStep <= count; d += kStep) {
        if (tile.next != nullptr) {
            if constexpr (fetches_groups_in_turn) {
                for (int g = 0; g < groups; ++g) prefetch_keys(next[g] + at * halves, stride, kStep * halves);
            } else {
                const int64_t ahead = at * halves * groups, group_size = tile.dim * stride;
                prefetch_keys(ahead < group_size ? next[0] + ahead : next[groups - 1] + (ahead - group_size), stride,
                              kStep * halves * groups);
            }
        }
        PAGECLI_UNROLL
        for (int i = 0; i < kStep; ++i) {
            PAGECLI_UNROLL
            for (int h = 0; h < halves; ++h) add_dimension<rows, groups>(sums[h], q + h * half + i, keys[h], at + i * stride);
            q = opaque(q);  // or later dimensions would be read early, and sums spilled
        }
        at += kStep * stride;
        q += kStep;
    }
    for (; d < count; ++d, ++q, at += stride) {
        PAGECLI_UNROLL
        for (int h = 0; h < halves; ++h) add_dimension<rows, groups>(sums[h], q + h * half, keys[h], at);
    }
}

// Scores of `rows` rows for `groups` times 16 keys from group `group` on, into weights[r].
template <int rows, int groups, int key_stride, class T>
static inline void score_groups(AttentionState& state, const Tile<T>& tile, int first_row, int group) {
    constexpr int vectors = groups * kGroupVectors, width = VecF::width;
    constexpr bool at_once = 2 * rows * vectors <= kMaxSums;
    const int half = tile.dim / 2;
    const float* q = state.q[first_row];
    float* weights = state.weights[0] + group * kGroupKeys;
    VecF scores[rows][vectors];
    if constexpr (at_once) {
        VecF sums[2][rows][vectors];
        PAGECLI_UNROLL
        for (int i = 0; i < 2 * rows * vectors; ++i) sums[i / (rows * vectors)][i / vectors % rows][i % vectors] = zero();
        add_dimensions<rows, groups, key_stride>(sums, q, tile, group, 0, half, half);
        if (tile.dim % 2 != 0) {
            const int64_t last = (tile.dim - 1) * tile.key_stride;
            add_dimension<rows, groups>(sums[1], q + tile.dim - 1, tile.keys + group, last);
        }
        PAGECLI_UNROLL
        for (int r = 0; r < rows; ++r)
            PAGECLI_UNROLL
            for (int v = 0; v < vectors; ++v) scores[r][v] = sums[0][r][v] + sums[1][r][v];
    } else {
        VecF sums[1][rows][vectors];
        PAGECLI_UNROLL
        for (int i = 0; i < rows * vectors; ++i) sums[0][i / vectors][i % vectors] = zero();
        add_dimensions<rows, groups, key_stride>(sums, q, tile, group, 0, 0, half);
        PAGECLI_UNROLL
        for (int i = 0; i < rows * vectors; ++i) {
            store(weights + i / vectors * kTileKeys + i % vectors * width, sums[0][i / vectors][i % vectors]);
            sums[0][i / vectors][i % vectors] = zero();
        }
        add_dimensions<rows, groups, key_stride>(sums, q, tile, group, half, 0, tile.dim - half);
        PAGECLI_UNROLL
        for (int r = 0; r < rows; ++r)
            PAGECLI_UNROLL
            for (int v = 0; v < vectors; ++v) scores[r][v] = load(weights + r * kTileKeys + v * width) + sums[0][r][v];
    }
    PAGECLI_UNROLL
    for (int r = 0; r < rows; ++r) {
        PAGECLI_UNROLL
        for (int g = 0; g < groups; ++g) order_keys<T>(&scores[r][g * kGroupVectors]);
        PAGECLI_UNROLL
        for (int v = 0; v < vectors; ++v) {
            VecF score = scores[r][v];
            if constexpr (has_scales<T>) {
                const float* scales = reinterpret_cast<const float*>(tile.key_scales[group + v / kGroupVectors]);  // aligned
                score = score * load(scales + v % kGroupVectors * width);
            }
            store(weights + r * kTileKeys + v * width, score);
        }
    }
}

// Scores of `rows` rows for the groups that have keys from `low` up to `high`, into weights[r]; other keys' mean nothing.
template <int rows, int key_stride, class T>
static inline void score_keys(AttentionState& state, const Tile<T>& tile, int first_row, int low, int high) {
    constexpr int groups = VecF::width == 16 || rows == 1 ? kTileGroups : 1;
    int group = low / kGroupKeys;
    for (; group + groups <= kTileGroups && group * kGroupKeys < high; group += groups) {
        if (groups > 1 && high <= kGroupKeys) break;
        score_groups<rows, groups, key_stride>(state, tile, first_row, group);
    }
    if constexpr (groups > 1) {
        if (group * kGroupKeys < high) score_groups<rows, 1, key_stride>(state, tile, first_row, group);
    }
}

}  // namespace pagecli::PAGECLI_ISA
