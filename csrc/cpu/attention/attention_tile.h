// Online softmax over one tile of keys (Milakov and Gimelshein, 2018; Dao et al., FlashAttention, 2022), for up to six query
// rows at once. What a row computes depends on that row, its keys and their positions alone, never on the rows beside it:
//   score of a key    the dimensions in order, each half of them apart (attention_scores.h)
//   sum of weights    lane by lane in the tile's order, those of keys it does not see 0, then one fixed tree
//   output            keys in order, one multiply-add per dimension (attention_values.h)
#pragma once

#include "attention_scores.h"
#include "attention_values.h"
#include "isa/vec_math.h"

namespace pagecli::PAGECLI_ISA {

static_assert(kTileRows <= VecF::width, "the rows' factors fill one vector");

// Scores of keys outside `range` become -inf, whatever was computed for them.
PAGECLI_INLINE void hide_keys(float* scores, KeyRange range, int count) {
    alignas(64) static constexpr float kLanes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const VecF hidden = broadcast(-__builtin_inff()), lane = load(kLanes);
    for (int i = 0; i < count; i += VecF::width) {
        const VecF low = broadcast(static_cast<float>(range.low - i)), high = broadcast(static_cast<float>(range.high - i));
        const VecF seen = select_less(lane, high, load(scores + i), hidden);
        store(scores + i, select_less(lane, low, hidden, seen));
    }
}

// Soft cap (Gemma 2) and ALiBi (Press et al., 2022) of the scores of the tile's first `count` keys. Apart from the loops that
// compute scores, which stay as they are for models without.
template <int rows>
__attribute__((noinline)) void shape_scores(AttentionState& state, int first_row, int count) {
    alignas(64) static constexpr float kLanes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const VecF lane = load(kLanes), cap = broadcast(state.cap), inverse = broadcast(state.cap > 0.0f ? 1.0f / state.cap : 0.0f);
    for (int r = 0; r < rows; ++r) {
        float* scores = state.weights[r];
        for (int i = 0; i < count; i += VecF::width) {
            VecF score = load(scores + i);
            if (state.cap > 0.0f) score = cap * tanh(score * inverse);
            if (state.has_slopes) {
                const VecF distance = lane + broadcast(static_cast<float>(i) - state.distances[r]);
                score = fmadd(distance, broadcast(state.slopes[first_row + r]), score);
            }
            store(scores + i, score);
        }
    }
}

// Turns the scores of `groups` times 16 keys in each row's weights into exp(score - max) and updates its max and total.
// rescale[r] brings the row's earlier sums to the new max.
template <int rows, int groups>
static inline void weigh_keys(AttentionState& state, int first_row, const KeyRange* ranges, float* rescale) {
    constexpr int width = VecF::width, count = groups * kGroupKeys;
    float* max_scores = state.max + first_row;
    float new_max[rows], fallen[width] = {};
    PAGECLI_UNROLL
    for (int r = 0; r < rows; ++r) {
        float* scores = state.weights[r];
        if (ranges[r].low > 0 || ranges[r].high < count) hide_keys(scores, ranges[r], count);
        VecF highest = load(scores);
        PAGECLI_UNROLL
        for (int i = width; i < count; i += width) highest = max(highest, load(scores + i));
        const float tile_max = reduce_max(highest);
        new_max[r] = tile_max > max_scores[r] ? tile_max : max_scores[r];
        fallen[r] = max_scores[r] - new_max[r];
        max_scores[r] = new_max[r];
    }
    float factors[width];
    store(factors, exp_not_positive(load(fallen)));
    for (int r = 0; r < rows; ++r) {
        float* weights = state.weights[r];
        const VecF highest = broadcast(new_max[r]);
        VecF tile_total = zero();
        PAGECLI_UNROLL
        for (int i = 0; i < count; i += width) {
            const VecF weight = exp_not_positive(load(weights + i) - highest);
            store(weights + i, weight);
            tile_total = tile_total + weight;
        }
        rescale[r] = factors[r];
        state.total[first_row + r] = state.total[first_row + r] * rescale[r] + reduce_add(tile_total);
    }
}

// What of the next tile's values the pass over this one's has not brought.
template <class T>
PAGECLI_INLINE void prefetch_others(const Tile<T>& tile, KeyRange brought) {
    for (int key = 0; key < kTileKeys; ++key) {
        if (key == brought.low) key = brought.high;
        if (key < kTileKeys) prefetch_slot(tile.next_v_cache + tile.next->values[fetched_with(key)], tile.dim);
    }
}

// Adds the values of the keys each row sees: those all rows see together, the others row by row, so that a value that is not
// finite reaches nobody who does not see it.
template <int rows, class T>
static inline void add_weighted_values(AttentionState& state, const Tile<T>& tile, int first_row, const KeyRange* ranges,
                                       float* rescale) {
    KeyRange common = {ranges[rows - 1].low, ranges[0].high};
    if constexpr (rows > 1) {
        if (common.low >= common.high) common = {ranges[rows - 1].high, ranges[rows - 1].high};  // row by row
        for (int r = 0; r < rows; ++r) {
            const KeyRange before = {ranges[r].low, common.low < ranges[r].high ? common.low : ranges[r].high};
            if (before.low >= before.high) continue;
            add_values<1>(state, tile, {first_row + r, state.weights[r], rescale + r}, before);
            rescale[r] = 1.0f;
        }
    }
    if (common.low < common.high) {
        add_values<rows>(state, tile, {first_row, state.weights[0], rescale}, common);
        if (tile.next != nullptr) prefetch_others(tile, common);
    }
    if constexpr (rows > 1) {
        const float unchanged = 1.0f;
        for (int r = 0; r < rows; ++r) {
            const KeyRange behind = {common.high, ranges[r].high};
            if (behind.low < behind.high) add_values<1>(state, tile, {first_row + r, state.weights[r], &unchanged}, behind);
        }
    }
}

// One tile for `rows` rows from first_row on, ranges[r] the keys each sees.
template <int rows, class T>
static void attend_tile(AttentionState& state, const Tile<T>& tile, int first_row, const KeyRange* ranges) {
    const int low = ranges[0].low, high = ranges[rows - 1].high;
    if (tile.key_stride == kGroupKeys)
        score_keys<rows, kGroupKeys>(state, tile, first_row, low, high);
    else
        score_keys<rows, 0>(state, tile, first_row, low, high);
    if (state.cap > 0.0f || state.has_slopes) shape_scores<rows>(state, first_row, high > kGroupKeys ? kTileKeys : kGroupKeys);
    float rescale[rows];
    if (high > kGroupKeys)
        weigh_keys<rows, kTileGroups>(state, first_row, ranges, rescale);
    else
        weigh_keys<rows, 1>(state, first_row, ranges, rescale);
    if constexpr (has_scales<T>) {
        for (int r = 0; r < rows; ++r)
            for (int i = 0; i < high; i += VecF::width)
                store(state.weights[r] + i, load(state.weights[r] + i) * load(state.value_scales + i));
    }
    add_weighted_values<rows>(state, tile, first_row, ranges, rescale);
}

}  // namespace pagecli::PAGECLI_ISA
