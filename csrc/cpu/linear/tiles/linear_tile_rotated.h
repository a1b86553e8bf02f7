// The tile of linear for rotated int8 weights: bytes of both factors multiplied exactly, summed over a group of 64 k in registers,
// then scaled and added to the float sums, which rest in memory: sum = fused(integer sum, x's scale * the weight's, sum). No step
// depends on the instruction set, so the bits of a product are the same on all of them, a matrix unit included.
#pragma once

#include "isa/quads.h"
#include "linear_tile.h"

namespace pagecli::PAGECLI_ISA {

// As wide_panels: other registers than the sums' hold a weight, its size, x and products.
constexpr int kMaxRotatedRows = VecF::width == 16 ? 6 : 5;
constexpr int rotated_wide_panels(int rows) {
    if (VecF::width == 16) return 4;
    return rows == 1 ? 4 : rows == 2 ? 2 : 1;
}

// Vector v of a tile is vector v % kVectorsPerPanel of panel v / kVectorsPerPanel.
struct RotatedReader {
    const RotatedGroup* group;
    int64_t panel_stride;

    [[gnu::always_inline]] const RotatedGroup& panel(int v) const { return group[v / kVectorsPerPanel * panel_stride]; }
    static constexpr int lane(int v) { return v % kVectorsPerPanel * VecF::width; }

    [[gnu::always_inline]] Quads quads(int quad, int v) const { return load_quads(panel(v).q[quad][lane(v)]); }
    [[gnu::always_inline]] VecF scale(int v) const { return load(panel(v).scale + lane(v)); }
};

template <int ROWS, int VECTORS>
PAGECLI_INLINE void sum_quads(VecI (&sum)[ROWS][VECTORS], const RotatedReader& weight, const uint32_t* x, Prefetcher& prefetcher) {
    keep_in_registers(sum);
    for (int quad = 0; quad < kGroupK / 4; quad += 2) {
        PAGECLI_UNROLL
        for (int i = 0; i < 2; ++i) {
            outer_product(sum, [=](int r) { return load_quad_x(x + i * cells_per_quad * ROWS + r, ROWS); },
                          [=](int v) { return weight.quads(quad + i, v); }, accumulate_quads);
            prefetcher.advance();
        }
        x += 2 * cells_per_quad * ROWS;
        keep_in_registers(sum);
    }
    keep_in_registers(sum);
}

template <int ROWS, int PANELS>
void tile_rotated(const TileArgs& t) {
    constexpr int kVectors = PANELS * kVectorsPerPanel;
    RotatedReader weight{static_cast<const RotatedGroup*>(t.weight), t.panel_stride};
    const uint32_t* x = static_cast<const uint32_t*>(t.x);
    const float* x_scales = t.x_scale;
    Prefetcher prefetcher{t.prefetch, t.prefetch_step};
    if (t.k_count == 0) memset(t.sums, 0, sizeof(float) * ROWS * kVectors * VecF::width);
    for (int64_t group = 0; group < t.k_count / kGroupK; ++group) {
        VecI sum[ROWS][kVectors];
        PAGECLI_UNROLL
        for (int r = 0; r < ROWS; ++r) {
            PAGECLI_UNROLL
            for (int v = 0; v < kVectors; ++v) sum[r][v] = bits(broadcast(x_scales[ROWS + r]));
        }
        sum_quads(sum, weight, x, prefetcher);
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
                store(rest, fused(to_float(sum[r][v]), x_scale * scales[v], is_first ? zero() : load(rest)));
            }
        }
        ++weight.group;
        x += kGroupK / 4 * cells_per_quad * ROWS;
        x_scales += 2 * ROWS;
    }
}

template <int ROWS, int PANELS>
struct RotatedTile {
    static void run(const TileArgs& t) { tile_rotated<ROWS, PANELS>(t); }
};

}  // namespace pagecli::PAGECLI_ISA
