// The inner kernel of linear: a tile of ROWS rows of x times PANELS panels of the weight, sums held in registers over one
// block of k. Instruction sets differ in VecF and in how many sums fit their registers; the code is the same.
#pragma once

#include <stdint.h>

#include "pagecli/packed_weight.h"
#include "vec.h"

namespace pagecli::PAGECLI_ISA {

constexpr int kVectorsPerPanel = static_cast<int>(kPanelWidth) / VecF::width;
constexpr int kMaxTileRows = 6;

// Registers for sums: AVX-512 has 32, of which 4 hold weights and one an x; AVX2 has 16 (2 weights, an x, a mask).
constexpr int kSumRegisters = VecF::width == 16 ? 24 : 12;

// Panels a tile of `rows` rows spans: few rows take several panels to keep enough independent sums in flight (the latency of
// an FMA times its throughput: 8). AVX2: 1 row -> 4 panels, 2 -> 3, 3 -> 2, else 1. AVX-512: 4.
constexpr int wide_panels(int rows) {
    const int fit = kSumRegisters / (rows * kVectorsPerPanel);
    return fit > 4 ? 4 : fit;
}

// What a tile reads and writes over one block of k.
struct TileArgs {
    const void* x;         // [ROWS, k_count] floats, or bfloat16 where the ISA multiplies bfloat16 pairs; rows x_stride apart
    const void* weight;    // the first panel at the block's first k; the next panel is panel_stride elements further
    float* sums;           // [ROWS, PANELS * 16]: sums so far, 64-byte aligned
    int64_t x_stride, panel_stride;
    int64_t k_count;
    bool first;  // the first block of k: sums start at zero instead of being read
};
using TileFunction = void (*)(const TileArgs&);

template <int ROWS, int PANELS>
struct TileSums {
    static constexpr int kVectors = PANELS * kVectorsPerPanel;
    VecF sum[ROWS][kVectors];

    [[gnu::always_inline]] void start(const TileArgs& t) {
        for (int r = 0; r < ROWS; ++r)
            for (int v = 0; v < kVectors; ++v) {
                sum[r][v] = t.first ? zero() : load(t.sums + (r * kVectors + v) * VecF::width);
            }
    }
    [[gnu::always_inline]] void finish(const TileArgs& t) const {
        for (int r = 0; r < ROWS; ++r)
            for (int v = 0; v < kVectors; ++v) store(t.sums + (r * kVectors + v) * VecF::width, sum[r][v]);
    }
    // sum[r] += x[r] * w
    [[gnu::always_inline]] void add(const float* x, int64_t x_stride, const VecF (&w)[kVectors]) {
        for (int r = 0; r < ROWS; ++r) {
            const VecF a = broadcast(x[r * x_stride]);
            for (int v = 0; v < kVectors; ++v) sum[r][v] = fmadd(a, w[v], sum[r][v]);
        }
    }
};

template <int ROWS, int PANELS>
void tile_float32(const TileArgs& t) {
    constexpr int kVectors = PANELS * kVectorsPerPanel;
    TileSums<ROWS, PANELS> sums;
    sums.start(t);
    const float* x = static_cast<const float*>(t.x);
    const float* weight = static_cast<const float*>(t.weight);
    for (int64_t k = 0; k < t.k_count; ++k) {
        VecF w[kVectors];
        for (int v = 0; v < kVectors; ++v)
            w[v] = load(weight + (v / kVectorsPerPanel) * t.panel_stride + (v % kVectorsPerPanel) * VecF::width);
        sums.add(x, t.x_stride, w);
        weight += kPanelWidth;
        ++x;
    }
    sums.finish(t);
}

// bfloat16 weights against float32 x: a pair's even k is its low half, the odd k its high half.
template <int ROWS, int PANELS>
void tile_bfloat16(const TileArgs& t) {
    constexpr int kVectors = PANELS * kVectorsPerPanel;
    TileSums<ROWS, PANELS> sums;
    sums.start(t);
    const float* x = static_cast<const float*>(t.x);
    const uint16_t* weight = static_cast<const uint16_t*>(t.weight);
    VecI pairs[kVectors];
    VecF w[kVectors];
    const auto read_pairs = [&]() __attribute__((always_inline)) {
        for (int v = 0; v < kVectors; ++v)
            pairs[v] = load_pairs(weight + (v / kVectorsPerPanel) * t.panel_stride + (v % kVectorsPerPanel) * 2 * VecF::width);
    };
    for (int64_t k = 0; k + 1 < t.k_count; k += 2) {
        read_pairs();
        for (int v = 0; v < kVectors; ++v) w[v] = widen_low(pairs[v]);
        sums.add(x, t.x_stride, w);
        for (int v = 0; v < kVectors; ++v) w[v] = widen_high(pairs[v]);
        sums.add(x + 1, t.x_stride, w);
        weight += 2 * kPanelWidth;
        x += 2;
    }
    if (t.k_count % 2 != 0) {  // the odd k of the last pair is padding, and x has no such column
        read_pairs();
        for (int v = 0; v < kVectors; ++v) w[v] = widen_low(pairs[v]);
        sums.add(x, t.x_stride, w);
    }
    sums.finish(t);
}

// bfloat16 weights against x rounded to bfloat16, both in pairs; k_count is even.
template <int ROWS, int PANELS>
void tile_bfloat16_pairs(const TileArgs& t) {
    constexpr int kVectors = PANELS * kVectorsPerPanel;
    TileSums<ROWS, PANELS> sums;
    sums.start(t);
    const uint16_t* x = static_cast<const uint16_t*>(t.x);
    const uint16_t* weight = static_cast<const uint16_t*>(t.weight);
    for (int64_t k = 0; k < t.k_count; k += 2) {
        VecI w[kVectors];
        for (int v = 0; v < kVectors; ++v)
            w[v] = load_pairs(weight + (v / kVectorsPerPanel) * t.panel_stride + (v % kVectorsPerPanel) * 2 * VecF::width);
        for (int r = 0; r < ROWS; ++r) {
            const VecI a = broadcast_pair(x + r * t.x_stride);
            for (int v = 0; v < kVectors; ++v) sums.sum[r][v] = dot_pairs(sums.sum[r][v], a, w[v]);
        }
        weight += 2 * kPanelWidth;
        x += 2;
    }
    sums.finish(t);
}

// The tile kernel for a weight type, indexed by rows; [rows][0] spans one panel, [rows][1] wide_panels(rows).
template <template <int, int> class Kernel>
struct TileTable {
    static constexpr TileFunction entries[kMaxTileRows + 1][2] = {
            {nullptr, nullptr},
            {Kernel<1, 1>::run, Kernel<1, wide_panels(1)>::run},
            {Kernel<2, 1>::run, Kernel<2, wide_panels(2)>::run},
            {Kernel<3, 1>::run, Kernel<3, wide_panels(3)>::run},
            {Kernel<4, 1>::run, Kernel<4, wide_panels(4)>::run},
            {Kernel<5, 1>::run, Kernel<5, wide_panels(5)>::run},
            {Kernel<6, 1>::run, Kernel<6, wide_panels(6)>::run},
    };
};

template <int ROWS, int PANELS>
struct Float32Tile {
    static void run(const TileArgs& t) { tile_float32<ROWS, PANELS>(t); }
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
