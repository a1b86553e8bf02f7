// The tile of linear for int8 weights on a matrix unit. x has 15 bits: its upper byte with sign and its lower 7 bits are multiplied
// apart, and 128 times the one sum plus the other is the exact sum that Int8Pairs has in 16-bit products; what follows is the same
// too, to the bit. A group's weights, pairs of k in memory, are laid out as quads once for all rows of the tile.
#pragma once

#include "linear_tile_amx.h"
#include "linear_tile_integers.h"

namespace pagecli::PAGECLI_ISA {

constexpr int kMaxUnitInt8Rows = 4 * kUnitRows;
constexpr int kLowBits = 7;  // of x in the lower byte
constexpr int unit_int8_wide_panels(int) { return 2; }
// Rows that x has cells for: whole registers of them, so that no register is ever less than full.
constexpr int64_t laid_rows(int64_t rows) { return (rows + kUnitRows - 1) / kUnitRows * kUnitRows; }

#if PAGECLI_HAS_MATRIX_UNIT

// What a tile needs of one group besides what TileArgs say.
struct GroupSums {
    alignas(64) int8_t quads[2][kUnitBytes];                       // [panel]: q[k / 4][16][4]
    alignas(64) int32_t sums[2][2][kUnitRows][kPanelWidth];  // [panel][upper, lower byte]
};

PAGECLI_INLINE void lay_quads(int8_t* quads, const PairedGroup& group) {
#if defined(__AVX512BW__)
    alignas(64) static constexpr uint16_t kOrder[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                        8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const __m512i order = _mm512_load_si512(kOrder);
    for (int pair = 0; pair < kGroupK / 2; pair += 2)
        _mm512_store_si512(quads + pair * 2 * kPanelWidth, _mm512_permutexvar_epi16(order, _mm512_loadu_si512(group.q[pair])));
#else
    for (int k = 0; k < kGroupK; ++k)
        for (int row = 0; row < kPanelWidth; ++row) quads[(k / 4 * kPanelWidth + row) * 4 + k % 4] = group.q[k / 2][row][k % 2];
#endif
}

// A block's sums over one group: x's upper bytes are in register 4, its lower ones in 5, the weights from 6 on.
template <int PANELS, int p = 0>
PAGECLI_INLINE void multiply_group(GroupSums& group) {
    constexpr int kUpper = 2 * p, kLower = 2 * p + 1, kWeight = 6 + p;
    tile_zero<kUpper>();
    tile_dot_int8<kUpper, 4, kWeight>();
    tile_store<kUpper>(group.sums[p][0], kUnitRowBytes);
    tile_zero<kLower>();
    tile_dot_int8<kLower, 5, kWeight>();
    tile_store<kLower>(group.sums[p][1], kUnitRowBytes);
    if constexpr (p + 1 < PANELS) multiply_group<PANELS, p + 1>(group);
}

// sums[rows, PANELS * 16] of one block, from zero where `is_first`.
template <int PANELS>
PAGECLI_INLINE void add_scaled(float* sums, const GroupSums& group, const Int8Pairs& weight, const float* x_scale, int rows,
                               bool is_first) {
    constexpr int kVectors = PANELS * kVectorsPerPanel;
    PAGECLI_UNROLL
    for (int v = 0; v < kVectors; ++v) {
        const VecF scale = weight.scale(v);
        const auto& panel = group.sums[v / kVectorsPerPanel];
        const int lane = Int8Pairs::lane(v);
        for (int r = 0; r < rows; ++r) {
            const VecI upper = bits(load(reinterpret_cast<const float*>(panel[0][r] + lane)));
            const VecI lower = bits(load(reinterpret_cast<const float*>(panel[1][r] + lane)));
            float* rest = sums + (r * kVectors + v) * VecF::width;
            const VecF sum = to_float(shift_left<kLowBits>(upper) + lower);
            store(rest, fmadd(sum, broadcast(x_scale[r]) * scale, is_first ? zero() : load(rest)));
        }
    }
}

template <int PANELS>
void tile_int8_unit(const TileArgs& t) {
    Int8Pairs weight(t);
    const char* x = static_cast<const char*>(t.x);
    const float* x_scale = t.x_scale;
    Prefetcher prefetcher{t.prefetch, t.prefetch_step};
    GroupSums group;
    t.unit->shape(kUnitRows);
    const int64_t half = laid_rows(t.rows) * kUnitRowBytes;
    if (t.k_count == 0) memset(t.sums, 0, sizeof(float) * static_cast<size_t>(t.rows * PANELS * kPanelWidth));
    for (int64_t k = 0; k < t.k_count; k += kGroupK) {
        for (int p = 0; p < PANELS; ++p) lay_quads(group.quads[p], weight.panel(p * kVectorsPerPanel));
        tile_load<6>(group.quads[0], kUnitRowBytes);
        if constexpr (PANELS > 1) tile_load<7>(group.quads[1], kUnitRowBytes);
        for (int row = 0; row < t.rows; row += kUnitRows) {
            const int rows = min_int(kUnitRows, t.rows - row);
            tile_load<4>(x + row * kUnitRowBytes, kUnitRowBytes);
            tile_load<5>(x + half + row * kUnitRowBytes, kUnitRowBytes);
            multiply_group<PANELS>(group);
            add_scaled<PANELS>(t.sums + row * PANELS * kPanelWidth, group, weight, x_scale + row, rows, t.first && k == 0);
        }
        prefetch_for(prefetcher, kUnitRows);
        weight.advance();
        x += 2 * half;
        x_scale += laid_rows(t.rows);
    }
}

inline Tiles unit_int8_tiles() {
    static constexpr TileFunction entries[1][2] = {{tile_int8_unit<1>, tile_int8_unit<2>}};
    return {entries, kMaxUnitInt8Rows, unit_int8_wide_panels, kMaxUnitInt8Rows};
}

#endif

}  // namespace pagecli::PAGECLI_ISA
