// The tile of linear for bfloat16 weights on a matrix unit: up to 32 rows of x, rounded to bfloat16, times 2 panels, or up to 16
// times 4. A chunk of 32 k of a panel is, as it lies in memory, what a register takes.
//
// Of each chunk the even and the odd k are summed apart, then both onto the sums so far: a row's order is the same whatever the
// rows beside it.
#pragma once

#include "isa/matrix_unit.h"
#include "linear_tile.h"

namespace pagecli::PAGECLI_ISA {

constexpr int kMaxUnitRows = 2 * kUnitRows;
constexpr int kChunkK = 32;  // of bfloat16, in a register
#if PAGECLI_HAS_MATRIX_UNIT

// Where the first panel's next chunk is; each other panel's is `stride` bytes further.
struct ChunkPanels {
    const char* data;
    int64_t stride;
};

// `lines` cache lines' worth of reading was done.
PAGECLI_INLINE void prefetch_for(Prefetcher& prefetcher, int lines) {
    for (int64_t at = 0; at < lines * prefetcher.step; at += 64) __builtin_prefetch(prefetcher.next + at, 0, 2);
    prefetcher.next += lines * prefetcher.step;
}

// The register of panel p's weights: 5 has rows of x where there are two blocks of them.
template <bool TWO>
constexpr int unit_weight(int p) {
    return TWO ? 6 + p : 5 + p % 3;
}

// Brings into L1 the chunks some way behind those at k of `weight`: at the panels' ends those that the next panels begin with.
template <int PANELS>
PAGECLI_INLINE void look_ahead(const ChunkPanels& weight, int64_t k, const TileArgs& t) {
    constexpr int kChunks = 8;
    const bool is_behind = k + (kChunks + 1) * kChunkK > t.k_count;
    const char* chunk = weight.data + kChunks * kUnitBytes + (is_behind ? t.next_panels * static_cast<int64_t>(sizeof(uint16_t)) : 0);
    for (int p = 0; p < PANELS; ++p, chunk += weight.stride)
        for (int at = 0; at < kUnitBytes; at += kUnitRowBytes) __builtin_prefetch(chunk + at, 0, 3);
}

template <bool TWO, int p, int last>
PAGECLI_INLINE void load_panels(const ChunkPanels& weight) {
    tile_load<unit_weight<TWO>(p)>(weight.data + p * weight.stride, kUnitRowBytes);
    if constexpr (p < last) load_panels<TWO, p + 1, last>(weight);
}

// C of block i and panel p is register 2 i + p of two blocks, p of one.
template <bool TWO, int p, int last>
PAGECLI_INLINE void multiply_panels() {
    tile_dot_bfloat16<p, 4, unit_weight<TWO>(p)>();
    if constexpr (TWO) tile_dot_bfloat16<2 + p, 5, unit_weight<TWO>(p)>();
    if constexpr (p < last) multiply_panels<TWO, p + 1, last>();
}

// One chunk. All loads first: where the core's other hardware thread leaves it little room to look ahead, that takes a tenth less
// time than each load before its product.
template <int PANELS, bool TWO>
PAGECLI_INLINE void multiply_chunk(const ChunkPanels& weight, const char* x) {
    constexpr int last = PANELS < 4 ? PANELS - 1 : 2;
    tile_load<4>(x, kUnitRowBytes);
    if constexpr (TWO) tile_load<5>(x + kUnitBytes, kUnitRowBytes);
    load_panels<TWO, 0, last>(weight);
    multiply_panels<TWO, 0, last>();
    if constexpr (PANELS == 4) {
        load_panels<TWO, 3, 3>(weight);
        multiply_panels<TWO, 3, 3>();
    }
}

enum class SumsMove { clear, read, write };

template <int PANELS, bool TWO, SumsMove move, int p = 0>
PAGECLI_INLINE void move_sums(float* sums) {
    constexpr int64_t kStride = PANELS * kUnitRowBytes;
    float *first = sums + p * kPanelWidth, *second = first + kUnitRows * PANELS * kPanelWidth;
    if constexpr (move == SumsMove::clear) {
        tile_zero<p>();
        if constexpr (TWO) tile_zero<2 + p>();
    } else if constexpr (move == SumsMove::read) {
        tile_load<p>(first, kStride);
        if constexpr (TWO) tile_load<2 + p>(second, kStride);
    } else {
        tile_store<p>(first, kStride);
        if constexpr (TWO) tile_store<2 + p>(second, kStride);
    }
    if constexpr (p + 1 < PANELS) move_sums<PANELS, TWO, move, p + 1>(sums);
}

// The panels' last chunk, where they end inside it, with zeros to its end.
template <int PANELS>
PAGECLI_INLINE ChunkPanels padded_chunk(char (&chunk)[PANELS][kUnitBytes], const ChunkPanels& weight, int64_t bytes) {
    memset(chunk, 0, sizeof chunk);
    for (int p = 0; p < PANELS; ++p) memcpy(chunk[p], weight.data + p * weight.stride, static_cast<size_t>(bytes));
    return {chunk[0], kUnitBytes};
}

template <int PANELS, bool TWO, bool LOOKS_AHEAD>
PAGECLI_INLINE void multiply_chunks(const TileArgs& t) {
    const char* x = static_cast<const char*>(t.x);
    ChunkPanels weight = {static_cast<const char*>(t.weight), t.panel_stride * static_cast<int64_t>(sizeof(uint16_t))};
    Prefetcher prefetcher{t.prefetch, t.prefetch_step};
    int64_t k = 0;
    for (; k + kChunkK <= t.k_count; k += kChunkK) {
        multiply_chunk<PANELS, TWO>(weight, x);
        if constexpr (LOOKS_AHEAD)
            look_ahead<PANELS>(weight, k, t);
        else
            prefetch_for(prefetcher, kUnitRows);
        x += t.rows * kUnitRowBytes;
        weight.data += kUnitBytes;
    }
    if (k < t.k_count) {
        alignas(64) char chunk[PANELS][kUnitBytes];
        multiply_chunk<PANELS, TWO>(padded_chunk<PANELS>(chunk, weight, (t.k_count - k) * 2 * kPanelWidth), x);
    }
}

template <int PANELS, bool TWO>
void tile_bfloat16_unit(const TileArgs& t) {
    t.unit->shape(TWO ? kUnitRows : t.rows, TWO ? t.rows - kUnitRows : 0);
    if (t.first)
        move_sums<PANELS, TWO, SumsMove::clear>(t.sums);
    else
        move_sums<PANELS, TWO, SumsMove::read>(t.sums);
    if (t.looks_ahead)
        multiply_chunks<PANELS, TWO, true>(t);
    else
        multiply_chunks<PANELS, TWO, false>(t);
    move_sums<PANELS, TWO, SumsMove::write>(t.sums);
}

constexpr int one_block_wide_panels(int) { return 4; }
constexpr int two_blocks_wide_panels(int) { return 2; }

// Of two panels at most.
inline Tiles unit_pair_tiles() {
    static constexpr TileFunction two_blocks[2][2] = {
        {tile_bfloat16_unit<1, false>, tile_bfloat16_unit<2, false>},
        {tile_bfloat16_unit<1, true>, tile_bfloat16_unit<2, true>},
    };
    return {two_blocks, kMaxUnitRows, two_blocks_wide_panels, kUnitRows};
}

inline Tiles unit_bfloat16_tiles(int64_t rows) {
    static constexpr TileFunction one_block[1][2] = {{tile_bfloat16_unit<1, false>, tile_bfloat16_unit<4, false>}};
    return rows <= kUnitRows ? Tiles{one_block, kUnitRows, one_block_wide_panels, kUnitRows} : unit_pair_tiles();
}

#endif

}  // namespace pagecli::PAGECLI_ISA
