// Online softmax over one tile of keys (Milakov and Gimelshein, 2018; Dao et al., FlashAttention, 2022), for up to four query
// rows at once. What a row computes depends on that row, its keys and their positions alone, never on the rows beside it:
//   score of a key    chunks of VecF::width dimensions in order, then one fixed tree
//   sum of weights    lanes from the first visible key of the tile, then one fixed tree
//   output            keys in order, one multiply-add per dimension
#pragma once

#include "kv_slot.h"
#include "vec_math.h"

namespace pagecli::PAGECLI_ISA {

constexpr int kTileKeys = 32;  // tiles start at positions that are multiples of this
constexpr int kMaxRows = 16;   // query rows of a task
constexpr int kDots = 8;       // dot products reduced together

// State of up to kMaxRows query rows; each row's vectors have head_dim floats.
struct AttentionState {
    alignas(64) float q[kMaxRows][kMaxHeadDim];       // query times scale
    alignas(64) float sum[kMaxRows][kMaxHeadDim];     // sum over keys of weight * v
    alignas(64) float weights[4][kTileKeys + kDots];  // of the rows taken together
    float max[kMaxRows];                              // highest score so far
    float total[kMaxRows];                            // sum of weights
};

// Where a tile's keys and values start in the caches, in elements. What follows the last key the task sees repeats it, so that
// keys can be taken several at a time without reading a slot beyond.
struct TileOffsets {
    int64_t at[kTileKeys + kDots];
};

// One tile of one KV head for rows that all see exactly its keys [low, high).
template <class T>
struct Tile {
    const T *k_cache, *v_cache;  // the offsets count from here: the cache, a KV head further where a task has several
    const TileOffsets& keys;
    const TileOffsets* next;          // the tile to bring into the cache meanwhile, or null
    const T *next_k_cache, *next_v_cache;
    int low, high, dim;
};

template <class T>
PAGECLI_INLINE void prefetch_row(const T* row, int dim) {
    constexpr int kLine = 64 / sizeof(T);
    __builtin_prefetch(row);
    __builtin_prefetch(row + kLine);  // nearly all heads have 64 dimensions or more
    for (int d = 2 * kLine; d < slot_elements<T>(dim); d += 2 * kLine) {
        __builtin_prefetch(row + d);
        __builtin_prefetch(row + d + kLine);
    }
}

// Keys whose dot products with `rows` query rows are summed side by side: 8 sums stay in registers.
constexpr int keys_at_once(int rows) { return kDots / rows; }

// sums[r * keys + i] += q[first_row + r] . k[i]
template <int rows, class T>
PAGECLI_INLINE void add_dots(const AttentionState& state, const T* const* k, int dim, int first_row, VecF* dots) {
    constexpr int keys = keys_at_once(rows), width = VecF::width;
    const int paired = paired_dims(dim), whole = dim - dim % width, rest = dim - whole;
    for (int d = 0; d < paired; d += 2 * width) {
        VecF q_first[rows], q_second[rows];
        PAGECLI_UNROLL
        for (int r = 0; r < rows; ++r) q_first[r] = load(&state.q[first_row + r][d]);
        PAGECLI_UNROLL
        for (int r = 0; r < rows; ++r) q_second[r] = load(&state.q[first_row + r][d + width]);
        if constexpr (rows <= 2) {
            PAGECLI_UNROLL
            for (int i = 0; i < keys; ++i) {
                const VecF first = load_first(k[i] + d), second = load_second(k[i] + d);
                PAGECLI_UNROLL
                for (int r = 0; r < rows; ++r) {
                    VecF& dot = dots[r * keys + i];
                    dot = fmadd(q_second[r], second, fmadd(q_first[r], first, dot));
                }
            }
        } else {
            PAGECLI_UNROLL
            for (int i = 0; i < keys; ++i) {
                const VecF part = load_first(k[i] + d);
                PAGECLI_UNROLL
                for (int r = 0; r < rows; ++r) dots[r * keys + i] = fmadd(q_first[r], part, dots[r * keys + i]);
            }
            PAGECLI_UNROLL
            for (int i = 0; i < keys; ++i) {
                const VecF part = load_second(k[i] + d);
                PAGECLI_UNROLL
                for (int r = 0; r < rows; ++r) dots[r * keys + i] = fmadd(q_second[r], part, dots[r * keys + i]);
            }
        }
    }
    for (int d = paired; d < whole; d += width) {
        PAGECLI_UNROLL
        for (int i = 0; i < keys; ++i) {
            const VecF k_part = load_kv(k[i] + d);
            PAGECLI_UNROLL
            for (int r = 0; r < rows; ++r)
                dots[r * keys + i] = fmadd(load(&state.q[first_row + r][d]), k_part, dots[r * keys + i]);
        }
    }
    if (rest == 0) return;
    PAGECLI_UNROLL
    for (int i = 0; i < keys; ++i) {
        const VecF k_part = load_kv(k[i] + whole, rest);
        PAGECLI_UNROLL
        for (int r = 0; r < rows; ++r)
            dots[r * keys + i] = fmadd(load_partial(&state.q[first_row + r][whole], rest), k_part, dots[r * keys + i]);
    }
}

// Scores of `rows` query rows for the tile's keys, into weights[row][key - low]; those past `high` mean nothing.
template <int rows, class T>
static inline void score_keys(AttentionState& state, const Tile<T>& tile, int first_row) {
    constexpr int keys = keys_at_once(rows), num_dots = rows * keys, whole_dots = (num_dots + kDots - 1) / kDots * kDots;
    for (int key = tile.low; key < tile.high; key += keys) {
        const T* k[keys];
        PAGECLI_UNROLL
        for (int i = 0; i < keys; ++i) k[i] = tile.k_cache + tile.keys.at[key + i];
        if (tile.next != nullptr)
            PAGECLI_UNROLL
            for (int i = 0; i < keys; ++i) prefetch_row(tile.next_k_cache + tile.next->at[key + i], tile.dim);
        VecF dots[whole_dots];
        PAGECLI_UNROLL
        for (int i = 0; i < whole_dots; ++i) dots[i] = zero();
        add_dots<rows>(state, k, tile.dim, first_row, dots);
        float scores[whole_dots];
        PAGECLI_UNROLL
        for (int i = 0; i < whole_dots; i += kDots) reduce_add_8(dots + i, scores + i);
        PAGECLI_UNROLL
        for (int r = 0; r < rows; ++r) memcpy(&state.weights[r][key - tile.low], scores + r * keys, keys * sizeof(float));
    }
}

// Turns the `count` scores in `weights` into exp(score - max) and updates the row's max and total. Returns the factor that
// brings the row's earlier sums to the new max.
static inline float weigh_keys(float* weights, int count, float& max_score, float& total) {
    for (int i = count; i % VecF::width != 0; ++i) weights[i] = -__builtin_inff();
    VecF highest = load(weights);
    for (int i = VecF::width; i < count; i += VecF::width) highest = max(highest, load(weights + i));
    const float tile_max = reduce_max(highest);
    const float new_max = tile_max > max_score ? tile_max : max_score;
    VecF tile_total = zero();
    PAGECLI_UNROLL
    for (int i = 0; i < count; i += VecF::width) {
        const VecF weight = exp(load(weights + i) - broadcast(new_max));
        store(weights + i, weight);
        tile_total = tile_total + weight;
    }
    const float rescale = reduce_max(exp(broadcast(max_score - new_max)));
    total = total * rescale + reduce_add(tile_total);
    max_score = new_max;
    return rescale;
}

// weights[row][key - low] times the scale of the key's slot in `cache`: before the softmax K's, after it V's.
template <int rows, class T>
PAGECLI_INLINE void scale_weights(AttentionState& state, const Tile<T>& tile, const T* cache) {
    if constexpr (has_scales<T>) {
        for (int key = tile.low; key < tile.high; ++key) {
            const float scale = slot_scale(cache + tile.keys.at[key], tile.dim);
            for (int r = 0; r < rows; ++r) state.weights[r][key - tile.low] *= scale;
        }
    }
}

// sum[row][d] = sum[row][d] * rescale[row] + weights[row] . v[keys][d] for `chunks` vectors of dimensions from d on, two at a
// time as load_first and load_second read them; a single one as it lies, `rest` lanes of it where rest > 0.
template <int rows, int chunks, class T>
static inline void add_values(AttentionState& state, const Tile<T>& tile, const float* rescale, int first_row, int d,
                              int rest = 0) {
    VecF sums[rows][chunks];
    PAGECLI_UNROLL
    for (int r = 0; r < rows; ++r)
        PAGECLI_UNROLL
        for (int c = 0; c < chunks; ++c)
            sums[r][c] = load(&state.sum[first_row + r][d + c * VecF::width]) * broadcast(rescale[r]);
    for (int key = tile.low; key < tile.high; ++key) {
        const T* v = tile.v_cache + tile.keys.at[key] + d;
        if (tile.next != nullptr && d == 0) prefetch_row(tile.next_v_cache + tile.next->at[key], tile.dim);
        VecF weight[rows];
        PAGECLI_UNROLL
        for (int r = 0; r < rows; ++r) weight[r] = broadcast(state.weights[r][key - tile.low]);
        if constexpr (chunks == 1) {
            const VecF part = rest > 0 ? load_kv(v, rest) : load_kv(v);
            PAGECLI_UNROLL
            for (int r = 0; r < rows; ++r) sums[r][0] = fmadd(weight[r], part, sums[r][0]);
        } else {
            PAGECLI_UNROLL
            for (int c = 0; c < chunks; c += 2) {
                const VecF first = load_first(v + c * VecF::width), second = load_second(v + c * VecF::width);
                PAGECLI_UNROLL
                for (int r = 0; r < rows; ++r) {
                    sums[r][c] = fmadd(weight[r], first, sums[r][c]);
                    sums[r][c + 1] = fmadd(weight[r], second, sums[r][c + 1]);
                }
            }
        }
    }
    PAGECLI_UNROLL
    for (int r = 0; r < rows; ++r)
        PAGECLI_UNROLL
        for (int c = 0; c < chunks; ++c) store(&state.sum[first_row + r][d + c * VecF::width], sums[r][c]);
}

// What of the next tile the passes over this one's keys have not brought: it may have more keys.
template <class T>
PAGECLI_INLINE void prefetch_rest(const Tile<T>& tile) {
    for (int key = tile.high; key < kTileKeys; ++key) {
        prefetch_row(tile.next_k_cache + tile.next->at[key], tile.dim);
        prefetch_row(tile.next_v_cache + tile.next->at[key], tile.dim);
    }
}

// One tile for `rows` rows from first_row on.
template <int rows, class T>
static void attend_tile(AttentionState& state, const Tile<T>& tile, int first_row) {
    score_keys<rows>(state, tile, first_row);
    scale_weights<rows>(state, tile, tile.k_cache);
    if (tile.next != nullptr) prefetch_rest(tile);
    float rescale[rows];
    PAGECLI_UNROLL
    for (int r = 0; r < rows; ++r)
        rescale[r] = weigh_keys(state.weights[r], tile.high - tile.low, state.max[first_row + r], state.total[first_row + r]);
    scale_weights<rows>(state, tile, tile.v_cache);
    constexpr int chunks = keys_at_once(rows);  // so many sums stay in registers
    constexpr int width = VecF::width;
    const int paired = paired_dims(tile.dim);
    int d = 0;
    for (; d + chunks * width <= paired; d += chunks * width) add_values<rows, chunks>(state, tile, rescale, first_row, d);
    if constexpr (chunks > 4) {
        for (; d + 4 * width <= paired; d += 4 * width) add_values<rows, 4>(state, tile, rescale, first_row, d);
    }
    if constexpr (chunks > 2) {
        for (; d < paired; d += 2 * width) add_values<rows, 2>(state, tile, rescale, first_row, d);
    }
    for (; d + width <= tile.dim; d += width) add_values<rows, 1>(state, tile, rescale, first_row, d);
    if (d < tile.dim) add_values<rows, 1>(state, tile, rescale, first_row, d, tile.dim - d);
}

}  // namespace pagecli::PAGECLI_ISA
