// The tile of linear for int8 weights: exact integer sums over a group of 64 k in registers, scaled and added to the float
// sums, which rest in memory, once a group.
#pragma once

#include "linear_tile.h"

namespace pagecli::PAGECLI_ISA {

// As wide_panels, for 16-bit products: each needs a register besides the sums, so that AVX2 has room for 8 sums.
constexpr int int8_wide_panels(int rows) {
    if (VecF::width == 16) return 4;
    return rows == 1 ? 4 : rows == 2 ? 2 : 1;
}
constexpr int kMaxInt8TileRows = VecF::width == 16 ? kMaxTileRows : 4;

// Activations as the tile multiplies them: 16-bit numbers, of each four k the even two before the odd two, as even_bytes and
// odd_bytes take the weights apart. 16-bit products cost the same with 15 bits of x as with 8 (whose rounding shows in the text
// a model writes), and 64 of them fit 32 bits: 64 * 127 * 16383 < 2^31.
constexpr float kLargestX = 16383.0f;

PAGECLI_INLINE void store_quad(int16_t* to, const int32_t* q) {
    to[0] = static_cast<int16_t>(q[0]);
    to[1] = static_cast<int16_t>(q[2]);
    to[2] = static_cast<int16_t>(q[1]);
    to[3] = static_cast<int16_t>(q[3]);
}

// Vector v of a tile is vector v % kVectorsPerPanel of panel v / kVectorsPerPanel.
struct GroupReader {
    const Int8Group* group;
    int64_t panel_stride;

    [[gnu::always_inline]] const Int8Group& panel(int v) const { return group[v / kVectorsPerPanel * panel_stride]; }
    static constexpr int lane(int v) { return v % kVectorsPerPanel * VecF::width; }

    [[gnu::always_inline]] VecI quads(int quad, int v) const {
        return load_pairs(reinterpret_cast<const uint16_t*>(panel(v).q[quad][lane(v)]));
    }
    [[gnu::always_inline]] VecF scale(int v) const { return load(panel(v).scale + lane(v)); }
};

template <int ROWS, int VECTORS>
PAGECLI_INLINE void sum_group(VecI (&sum)[ROWS][VECTORS], const GroupReader& weight, const int16_t* x, int64_t x_stride,
                              Prefetcher& prefetcher) {
    for (int quad = 0; quad < kGroupK / 4; ++quad) {
        const auto read_x = [&](int r) __attribute__((always_inline)) {
            return broadcast_pair(reinterpret_cast<const uint16_t*>(x + r * x_stride));
        };
        outer_product(sum, read_x, [=](int v) { return even_bytes(weight.quads(quad, v)); }, accumulate_int16);
        x = opaque(x + 2);  // or the odd bytes' factors would occupy registers from here on
        outer_product(sum, read_x, [=](int v) { return odd_bytes(weight.quads(quad, v)); }, accumulate_int16);
        prefetcher.advance();
        x += 2;
    }
}

template <int ROWS, int PANELS>
void tile_int8(const TileArgs& t) {
    constexpr int kVectors = PANELS * kVectorsPerPanel;
    GroupReader weight{static_cast<const Int8Group*>(t.weight), t.panel_stride};
    const int16_t* x = static_cast<const int16_t*>(t.x);
    Prefetcher prefetcher{t.prefetch, t.prefetch_step};
    if (t.k_count == 0) memset(t.sums, 0, sizeof(float) * ROWS * kVectors * VecF::width);
    for (int64_t group = 0; group < t.k_count / kGroupK; ++group, ++weight.group, x += kGroupK) {
        VecI sum[ROWS][kVectors];
        PAGECLI_UNROLL
        for (int r = 0; r < ROWS; ++r) {
            PAGECLI_UNROLL
            for (int v = 0; v < kVectors; ++v) sum[r][v] = broadcast_int(0);
        }
        sum_group(sum, weight, x, t.x_stride, prefetcher);
        const bool is_first = t.first && group == 0;
        PAGECLI_UNROLL
        for (int r = 0; r < ROWS; ++r) {
            const VecF x_scale = broadcast(t.x_scale[r * t.x_scale_stride + group]);
            PAGECLI_UNROLL
            for (int v = 0; v < kVectors; ++v) {
                float* rest = t.sums + (r * kVectors + v) * VecF::width;
                store(rest, fmadd(to_float(sum[r][v]), x_scale * weight.scale(v), is_first ? zero() : load(rest)));
            }
        }
    }
}

template <int ROWS, int PANELS>
struct Int8Tile {
    static void run(const TileArgs& t) { tile_int8<ROWS, PANELS>(t); }
};

}  // namespace pagecli::PAGECLI_ISA
