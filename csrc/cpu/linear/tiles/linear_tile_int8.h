// The tile of linear for int8 weights: exact integer sums over a group of 64 k in registers, scaled and added to the float
// sums, which rest in memory, once a group.
#pragma once

#include "linear_tile.h"

namespace pagecli::PAGECLI_ISA {

// As wide_panels, for 16-bit products: each needs a register besides the sums, so that 3 rows x 2 panels would not fit AVX2's.
constexpr int int8_wide_panels(int rows) {
    if (VecF::width == 16) return 4;
    return rows == 1 ? 4 : rows == 2 ? 2 : 1;
}

// Vector v of a tile is vector v % kVectorsPerPanel of panel v / kVectorsPerPanel.
struct GroupReader {
    const PairedGroup* group;
    int64_t panel_stride;

    [[gnu::always_inline]] const PairedGroup& panel(int v) const { return group[v / kVectorsPerPanel * panel_stride]; }
    static constexpr int lane(int v) { return v % kVectorsPerPanel * VecF::width; }

    [[gnu::always_inline]] VecI pairs(int pair, int v) const { return load_int8_pairs(panel(v).q[pair][lane(v)]); }
    [[gnu::always_inline]] VecF scale(int v) const { return load(panel(v).scale + lane(v)); }
};

template <int ROWS, int VECTORS>
PAGECLI_INLINE void sum_group(VecI (&sum)[ROWS][VECTORS], const GroupReader& weight, const uint32_t* x, Prefetcher& prefetcher) {
    keep_in_registers(sum);
    for (int pair = 0; pair < kGroupK / 2; pair += 2) {
        PAGECLI_UNROLL
        for (int i = 0; i < 2; ++i)
            outer_product(sum, [=](int r) { return broadcast_int(static_cast<int32_t>(x[i * ROWS + r])); },
                          [=](int v) { return weight.pairs(pair + i, v); }, accumulate_int16);
        prefetcher.advance();
        x += 2 * ROWS;
        keep_in_registers(sum);
    }
    keep_in_registers(sum);
}

template <int ROWS, int PANELS>
void tile_int8(const TileArgs& t) {
    constexpr int kVectors = PANELS * kVectorsPerPanel;
    GroupReader weight{static_cast<const PairedGroup*>(t.weight), t.panel_stride};
    const uint32_t* x = static_cast<const uint32_t*>(t.x);
    const float* x_scales = t.x_scale;
    Prefetcher prefetcher{t.prefetch, t.prefetch_step};
    if (t.k_count == 0) memset(t.sums, 0, sizeof(float) * ROWS * kVectors * VecF::width);
    for (int64_t group = 0; group < t.k_count / kGroupK; ++group) {
        VecI sum[ROWS][kVectors];
        PAGECLI_UNROLL
        for (int r = 0; r < ROWS; ++r) {
            PAGECLI_UNROLL
            for (int v = 0; v < kVectors; ++v) sum[r][v] = broadcast_int(0);
        }
        sum_group(sum, weight, x, prefetcher);
        const bool is_first = t.first && group == 0;
        VecF scales[kVectors];
        PAGECLI_UNROLL
        for (int v = 0; v < kVectors; ++v) scales[v] = weight.scale(v);
        PAGECLI_UNROLL
        for (int r = 0; r < ROWS; ++r) {
            const VecF x_scale = broadcast(x_scales[r]);
            PAGECLI_UNROLL
            for (int v = 0; v < kVectors; ++v) {
                float* rest = t.sums + (r * kVectors + v) * VecF::width;
                store(rest, fmadd(to_float(sum[r][v]), x_scale * scales[v], is_first ? zero() : load(rest)));
            }
        }
        ++weight.group;
        x += kGroupK / 2 * ROWS;
        x_scales += ROWS;
    }
}

template <int ROWS, int PANELS>
struct Int8Tile {
    static void run(const TileArgs& t) { tile_int8<ROWS, PANELS>(t); }
};

}  // namespace pagecli::PAGECLI_ISA
