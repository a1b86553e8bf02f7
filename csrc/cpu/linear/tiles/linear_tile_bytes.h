// The tile of quantized upper bounds (quantized_bounds.h): signed bytes of x times unsigned bytes of weights, exact integer sums over a group of 64 k that
// start where the bytes' 64 too much is taken off, scaled by x's scale of that group.
#pragma once

#include "linear_tile.h"

namespace pagecli::PAGECLI_ISA {

// As wide_panels: a pair of registers besides the sums is taken by ones and products.
constexpr int kMaxBytesRows = VecF::width == 16 ? 6 : 5;
constexpr int bytes_wide_panels(int rows) {
    if (VecF::width == 16) return 4;
    return rows == 1 ? 4 : rows == 2 ? 2 : 1;
}

template <int ROWS, int VECTORS>
PAGECLI_INLINE void sum_bytes(VecI (&sum)[ROWS][VECTORS], const uint8_t* weight, int64_t panel_stride, const uint32_t* x,
                              Prefetcher& prefetcher) {
    keep_in_registers(sum);
    for (int quad = 0; quad < kGroupK / 4; quad += 2) {
        PAGECLI_UNROLL
        for (int i = 0; i < 2; ++i) {
            const uint8_t* row = weight + i * 4 * kPanelWidth;
            outer_product(sum, [=](int r) { return broadcast_int(static_cast<int32_t>(x[i * ROWS + r])); },
                          [=](int v) { return load_bytes(row + vector_offset(v, 4 * VecF::width, panel_stride)); },
                          [](VecI& s, VecI a, VecI w) { accumulate_bytes(s, w, a); });
            prefetcher.advance();
        }
        weight += 8 * kPanelWidth;
        x += 2 * ROWS;
        keep_in_registers(sum);
    }
    keep_in_registers(sum);
}

template <int ROWS, int PANELS>
void tile_bytes(const TileArgs& t) {
    constexpr int kVectors = PANELS * kVectorsPerPanel;
    const uint8_t* weight = static_cast<const uint8_t*>(t.weight);
    const uint32_t* x = static_cast<const uint32_t*>(t.x);
    const float* x_scales = t.x_scale;
    Prefetcher prefetcher{t.prefetch, t.prefetch_step};
    for (int64_t group = 0; group < t.k_count / kGroupK; ++group) {
        VecI sum[ROWS][kVectors];
        PAGECLI_UNROLL
        for (int r = 0; r < ROWS; ++r) {
            PAGECLI_UNROLL
            for (int v = 0; v < kVectors; ++v) sum[r][v] = bits(broadcast(x_scales[ROWS + r]));
        }
        sum_bytes(sum, weight, t.panel_stride, x, prefetcher);
        const bool is_first = t.first && group == 0;
        PAGECLI_UNROLL
        for (int r = 0; r < ROWS; ++r) {
            PAGECLI_UNROLL
            for (int v = 0; v < kVectors; ++v) {
                float* rest = t.sums + (r * kVectors + v) * VecF::width;
                store(rest, fmadd(to_float(sum[r][v]), broadcast(x_scales[r]), is_first ? zero() : load(rest)));
            }
        }
        weight += kGroupK * kPanelWidth;
        x += kGroupK / 4 * ROWS;
        x_scales += 2 * ROWS;
    }
}

template <int ROWS, int PANELS>
struct BytesTile {
    static void run(const TileArgs& t) { tile_bytes<ROWS, PANELS>(t); }
};

}  // namespace pagecli::PAGECLI_ISA
