// The inner kernel of linear: a tile of ROWS rows of x times PANELS panels of the weight, sums held in registers over one
// block of k. Instruction sets differ in VecF and in how many sums fit their registers; the code is the same.
#pragma once

#include <stdint.h>

#include "isa/vec.h"
#include "pagecli/linear/packed_weight.h"

namespace pagecli::PAGECLI_ISA {

constexpr int kVectorsPerPanel = static_cast<int>(kPanelWidth) / VecF::width;
constexpr int kMaxTileRows = 6;

// Panels a tile of `rows` rows spans. Registers hold the sums, a few weights and an x; and at least 8 sums must be in flight
// (the latency of an FMA, 4, times 2 a cycle). AVX-512 has 32 registers, AVX2 16: 6 rows x 4 or 1 panels at most.
constexpr int wide_panels(int rows) {
    if (VecF::width == 16) return 4;
    return rows == 1 ? 4 : rows <= 3 ? 2 : 1;
}
constexpr int kMaxPanels = 4;

// What a tile reads and writes over one block of k.
struct TileArgs {
    int rows;              // ROWS, where no template says so
    const void* x;         // cells [k_count / k per cell, ROWS] (linear_activations.h)
    const float* x_scale;  // of int8 weights: [k_count / 64, ROWS]
    const void* weight;    // the first panel at the block's first k; the next panel is panel_stride elements further
    float* sums;           // [ROWS, PANELS * 16]: sums so far, 64-byte aligned
    int64_t panel_stride;
    int64_t k_count;
    const char* prefetch;   // brought into L2 meanwhile, prefetch_step bytes for every 64 bytes read of a panel
    int64_t prefetch_step;  // 0 to 128; of a matrix unit any
    bool first;             // the first block of k: sums start at zero instead of being read
    class TileUse* unit;    // of a matrix unit
    bool looks_ahead;       // of a matrix unit: in its panels, instead of `prefetch`
    int64_t next_panels;    // of a matrix unit: elements from where panels end to where the next ones begin
    const struct QuantizedHeader* quantized;  // of quantized weights, read as bytes (quantized/tile_quantized.h)
};
using TileFunction = void (*)(const TileArgs&);

struct Prefetcher {
    const char* next;
    int64_t step;
    int64_t second = step > 64 ? 64 : 0;

    // Without branches: with one among 24 integer sums gcc 12 keeps them in memory.
    [[gnu::always_inline]] void advance() {
        __builtin_prefetch(next, 0, 2);
        __builtin_prefetch(next + second, 0, 2);
        next += step;
    }

    // advance() four times; of steps up to 16 bytes one line is all there is to bring.
    [[gnu::always_inline]] void advance_four() {
        __builtin_prefetch(next, 0, 2);
        if (step > 16) {
            __builtin_prefetch(next + step, 0, 2);
            __builtin_prefetch(next + 2 * step, 0, 2);
            __builtin_prefetch(next + 3 * step, 0, 2);
        }
        next += 4 * step;
    }
};

// sum[r][v] += x(r) * weight(v) by multiply_add(sum, x, weight), the smaller of the two factors' sets held in registers.
template <class Sum, int ROWS, int VECTORS, class ReadX, class ReadWeight, class MultiplyAdd>
PAGECLI_INLINE void outer_product(Sum (&sum)[ROWS][VECTORS], ReadX read_x, ReadWeight read_weight, MultiplyAdd multiply_add) {
    if constexpr (ROWS < VECTORS) {
        decltype(read_x(0)) x[ROWS];
        PAGECLI_UNROLL
        for (int r = 0; r < ROWS; ++r) x[r] = read_x(r);
        PAGECLI_UNROLL
        for (int v = 0; v < VECTORS; ++v) {
            const auto weight = read_weight(v);
            PAGECLI_UNROLL
            for (int r = 0; r < ROWS; ++r) multiply_add(sum[r][v], x[r], weight);
        }
    } else {
        decltype(read_weight(0)) weight[VECTORS];
        PAGECLI_UNROLL
        for (int v = 0; v < VECTORS; ++v) weight[v] = read_weight(v);
        PAGECLI_UNROLL
        for (int r = 0; r < ROWS; ++r) {
            const auto x = read_x(r);
            PAGECLI_UNROLL
            for (int v = 0; v < VECTORS; ++v) multiply_add(sum[r][v], x, weight[v]);
        }
    }
}

// Integer sums before, behind and at the end of each turn of their loop: gcc 12 would else keep some of a tile's 24 in memory, and
// the tile would take half as long again.
template <int ROWS, int VECTORS>
PAGECLI_INLINE void keep_in_registers([[maybe_unused]] VecI (&sum)[ROWS][VECTORS]) {
#if defined(__AVX512F__)
    PAGECLI_UNROLL
    for (int r = 0; r < ROWS; ++r) {
        PAGECLI_UNROLL
        for (int v = 0; v < VECTORS; ++v) __asm__ volatile("" : "+v"(sum[r][v].v));
    }
#endif
}

template <int ROWS, int PANELS>
struct TileSums {
    static constexpr int kVectors = PANELS * kVectorsPerPanel;
    VecF sum[ROWS][kVectors];

    [[gnu::always_inline]] void start(const TileArgs& t) {
        if (!t.first) return resume(t);
        PAGECLI_UNROLL
        for (int r = 0; r < ROWS; ++r) {
            PAGECLI_UNROLL
            for (int v = 0; v < kVectors; ++v) sum[r][v] = zero();
        }
    }

    [[gnu::always_inline]] void resume(const TileArgs& t) {
        PAGECLI_UNROLL
        for (int r = 0; r < ROWS; ++r) {
            PAGECLI_UNROLL
            for (int v = 0; v < kVectors; ++v) sum[r][v] = load(t.sums + (r * kVectors + v) * VecF::width);
        }
    }

    [[gnu::always_inline]] void finish(const TileArgs& t) const {
        PAGECLI_UNROLL
        for (int r = 0; r < ROWS; ++r) {
            PAGECLI_UNROLL
            for (int v = 0; v < kVectors; ++v) store(t.sums + (r * kVectors + v) * VecF::width, sum[r][v]);
        }
    }

    template <class ReadX, class ReadWeight, class MultiplyAdd>
    [[gnu::always_inline]] void add(ReadX read_x, ReadWeight read_weight, MultiplyAdd multiply_add) {
        outer_product(sum, read_x, read_weight, multiply_add);
    }
};

// Elements from the first panel's vector to vector v of a tile, a vector being `width` elements of its panel.
PAGECLI_INLINE int64_t vector_offset(int v, int width, int64_t panel_stride) {
    return v / kVectorsPerPanel * panel_stride + v % kVectorsPerPanel * width;
}

constexpr int kNear = 16;  // k ahead, brought from L2 to L1: 6 x 64 tiles of an Emerald Rapids 109-117 -> 124-130 GFLOP/s a core

template <int ROWS, int PANELS>
void tile_float32(const TileArgs& t) {
    TileSums<ROWS, PANELS> sums;
    sums.start(t);
    const float* x = static_cast<const float*>(t.x);
    const float* weight = static_cast<const float*>(t.weight);
    const int64_t panel_stride = t.panel_stride;
    Prefetcher prefetcher{t.prefetch, t.prefetch_step};
    int64_t k = 0;
    for (; k + 4 <= t.k_count; k += 4) {  // four at a time: fewer instructions beside the multiply-adds
        PAGECLI_UNROLL
        for (int i = 0; i < 4; ++i) {
            const float* row = weight + i * kPanelWidth;
            PAGECLI_UNROLL
            for (int p = 0; p < PANELS; ++p) __builtin_prefetch(row + p * panel_stride + kNear * kPanelWidth, 0, 3);
            sums.add([=](int r) { return broadcast(x[i * ROWS + r]); },
                     [=](int v) { return load(row + vector_offset(v, VecF::width, panel_stride)); }, accumulate);
        }
        prefetcher.advance_four();
        weight += 4 * kPanelWidth;
        x += 4 * ROWS;
    }
    for (; k < t.k_count; ++k) {
        sums.add([=](int r) { return broadcast(x[r]); },
                 [=](int v) { return load(weight + vector_offset(v, VecF::width, panel_stride)); }, accumulate);
        weight += kPanelWidth;
        x += ROWS;
    }
    sums.finish(t);
}

// bfloat16 weights against float32 x: a pair's even k is its low half, the odd k its high half. With `odd_first` x is split that way.
template <int ROWS, int PANELS, bool odd_first = false>
void tile_bfloat16(const TileArgs& t) {
    TileSums<ROWS, PANELS> sums;
    sums.start(t);
    const float* x = static_cast<const float*>(t.x);
    const uint16_t* weight = static_cast<const uint16_t*>(t.weight);
    const int64_t panel_stride = t.panel_stride;
    Prefetcher prefetcher{t.prefetch, t.prefetch_step};
    const auto read_x = [&](int r) __attribute__((always_inline)) { return broadcast(x[r]); };
    const auto read_pairs = [&](int v) __attribute__((always_inline)) {
        return load_pairs(weight + vector_offset(v, 2 * VecF::width, panel_stride));
    };
    const auto read_first = [&](int v) __attribute__((always_inline)) {
        return odd_first ? widen_high(read_pairs(v)) : widen_low(read_pairs(v));
    };
    const auto read_second = [&](int v) __attribute__((always_inline)) {
        return odd_first ? widen_low(read_pairs(v)) : widen_high(read_pairs(v));
    };
    for (int64_t k = 0; k + 1 < t.k_count; k += 2) {
        sums.add(read_x, read_first, accumulate);
        x = opaque(x + ROWS);  // or the odd k's x and the pairs would occupy registers from here on, and sums would be spilled
        weight = opaque(weight);
        sums.add(read_x, read_second, accumulate);
        prefetcher.advance();
        x += ROWS;
        weight += 2 * kPanelWidth;
    }
    sums.finish(t);
    if (t.k_count % 2 != 0) {  // the last pair's odd k is padding, and x has no such column
        sums.resume(t);
        sums.add(read_x, read_first, accumulate);
        sums.finish(t);
    }
}

// bfloat16 weights against x rounded to bfloat16, both in pairs; k_count is even.
template <int ROWS, int PANELS>
void tile_bfloat16_pairs(const TileArgs& t) {
    TileSums<ROWS, PANELS> sums;
    sums.start(t);
    const uint32_t* x = static_cast<const uint32_t*>(t.x);
    const uint16_t* weight = static_cast<const uint16_t*>(t.weight);
    const int64_t panel_stride = t.panel_stride;
    Prefetcher prefetcher{t.prefetch, t.prefetch_step};
    for (int64_t k = 0; k < t.k_count; k += 2) {
        sums.add([=](int r) { return broadcast_int(static_cast<int32_t>(x[r])); },
                 [=](int v) { return load_pairs(weight + vector_offset(v, 2 * VecF::width, panel_stride)); }, accumulate_pairs);
        prefetcher.advance();
        weight += 2 * kPanelWidth;
        x += ROWS;
    }
    sums.finish(t);
}

// The tiles of a weight type: [0] of an entry spans one panel, [1] wide(rows) panels, rows being those of the highest tile. An entry
// is for rows_per_entry heights, up to max_rows. Where that is 1, tiles of nearly equal height take least time; where it is more,
// whole ones.
struct Tiles {
    const TileFunction (*entries)[2];
    int max_rows;
    int (*wide)(int rows);
    int rows_per_entry = 1;

    TileFunction at(int rows, bool is_wide) const { return entries[(rows - 1) / rows_per_entry][is_wide]; }
};

template <template <int, int> class Kernel, int (*wide)(int) = wide_panels, int most_rows = kMaxTileRows>
struct TileTable {
    static constexpr TileFunction entries[kMaxTileRows][2] = {
        {Kernel<1, 1>::run, Kernel<1, wide(1)>::run},
        {Kernel<2, 1>::run, Kernel<2, wide(2)>::run},
        {Kernel<3, 1>::run, Kernel<3, wide(3)>::run},
        {Kernel<4, 1>::run, Kernel<4, wide(4)>::run},
        {Kernel<5, 1>::run, Kernel<5, wide(5)>::run},
        {Kernel<6, 1>::run, Kernel<6, wide(6)>::run},
    };
    static constexpr Tiles tiles() { return {entries, most_rows, wide}; }
};

template <int ROWS, int PANELS>
struct Float32Tile {
    static void run(const TileArgs& t) { tile_float32<ROWS, PANELS>(t); }
};
// Pairs widened, against x split: what tile_bfloat16_pairs sums.
template <int ROWS, int PANELS>
struct WidenedTile {
    static void run(const TileArgs& t) { tile_bfloat16<ROWS, PANELS, true>(t); }
};
template <int ROWS, int PANELS>
struct Bfloat16Tile {
    static void run(const TileArgs& t) {
        if constexpr (has_pair_dot)
            tile_bfloat16_pairs<ROWS, PANELS>(t);
        else
            tile_bfloat16<ROWS, PANELS>(t);
    }
};

}  // namespace pagecli::PAGECLI_ISA
