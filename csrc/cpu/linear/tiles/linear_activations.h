// x as the tiles of linear read it: cells of 32 bits, those of a tile's rows side by side, so that a tile reads one stream
// instead of a row each. A cell is a float, the bfloat16 or 16-bit integers of two k, or the bytes of four.
//
//   floats and pairs of bfloat16    cells[tile][k / k per cell][rows of the tile]
//   integers                        cells[tile][k / 64][rows of the tile][64 / k per cell], scale[tile][k / 64][scales][rows of the tile]
//
// where the second scale, of bytes only, is where their sum starts, in bits: start_of_offset of quantized bounds
// (quantized_bounds.h), start_of_quads of rotated weights (quads.h). For a matrix unit: linear_activations_unit.h.
#pragma once

#include <stdint.h>
#include <string.h>

#include <type_traits>

#include "isa/quads.h"
#include "linear/rotate.h"
#include "linear_tile.h"
#include "pagecli/linear/packed_weight.h"
#include "pagecli/linear/quantized_bounds.h"
#include "parallel.h"

namespace pagecli::PAGECLI_ISA {

// bfloat16_split: floats rounded to bfloat16, of two k the odd one first, as vdpbf16ps adds them.
enum class CellType { float32, bfloat16_pair, bfloat16_split, int16_pair, int8_quad, rotated_quad, bfloat16_unit, int16_unit, rotated_unit };

constexpr bool is_of_unit(CellType type) {
    return type == CellType::bfloat16_unit || type == CellType::int16_unit || type == CellType::rotated_unit;
}
// Laid out in whole registers of rows.
constexpr bool has_whole_units(CellType type) { return type == CellType::int16_unit || type == CellType::rotated_unit; }
constexpr bool is_of_bytes(CellType type) {
    return type == CellType::int8_quad || type == CellType::rotated_quad || type == CellType::rotated_unit;
}
constexpr bool is_of_floats(CellType type) { return type == CellType::float32 || type == CellType::bfloat16_split; }
constexpr int k_per_cell(CellType type) {
    if (type == CellType::rotated_quad) return 4 / cells_per_quad;
    return is_of_floats(type) ? 1 : is_of_bytes(type) ? 4 : 2;
}
constexpr int scales_per_group(CellType type) {
    if (type == CellType::int8_quad || type == CellType::rotated_quad) return 2;
    return type == CellType::int16_pair || has_whole_units(type) ? 1 : 0;
}
constexpr int64_t kCellsPerLine = 16;  // 64 bytes: of a row, what a matrix unit takes at once
// Cells of a row of `cols` k.
constexpr int64_t cells_of(CellType type, int64_t cols) {
    const int64_t cells = (cols + k_per_cell(type) - 1) / k_per_cell(type);
    return type == CellType::bfloat16_unit ? (cells + kCellsPerLine - 1) / kCellsPerLine * kCellsPerLine : cells;
}

template <CellType type>
using Cell = std::conditional_t<is_of_floats(type), float, uint32_t>;

// 16-bit products cost the same with 15 bits of x as with 8 (whose rounding shows in the text a model writes), and 64 of them
// fit 32 bits: 64 * 127 * 16383 < 2^31.
constexpr float kLargestX = 16383.0f;

// M rows as tiles of nearly equal height (with 6 at most, 7 rows are 4 + 3, not 6 + 1), or of all but the last as high as can be.
struct RowTiles {
    int64_t total, count, height, num_higher;  // the first num_higher tiles have height + 1 rows
    RowTiles(int64_t rows, const Tiles& tiles)
        : total(rows), count((rows + tiles.max_rows - 1) / tiles.max_rows), height(rows / count), num_higher(rows % count) {
        if (tiles.rows_per_entry == 1) return;
        height = tiles.max_rows;
        num_higher = 0;
    }
    int64_t first_row(int64_t tile) const {
        const int64_t row = tile * height + (tile < num_higher ? tile : num_higher);
        return row < total ? row : total;
    }
    int rows(int64_t tile) const { return static_cast<int>(first_row(tile + 1) - first_row(tile)); }
    int max_rows() const { return rows(0); }
};

struct Activations {
    const void* cells;
    int64_t cells_per_row;
    const float* scale;  // of integers: [rows, num_scales] in the order of the cells
    int64_t num_scales;
};

// The cells of one row's `width` k, at most 64, from `x`; those beyond, to an even k, are zero.
PAGECLI_INLINE void bfloat16_pairs(uint32_t* pairs, const float* x, int width) {
    uint16_t rounded[kGroupK] = {};
    int k = 0;
    for (; k + VecF::width <= width; k += VecF::width) store_bf16(rounded + k, load(x + k));
    for (; k < width; ++k) rounded[k] = round_to_bf16(x[k]);
    memcpy(pairs, rounded, sizeof rounded);
}

// The cells of one row's `width` k, at most 64, from `x`, as bfloat16_pairs rounds them.
PAGECLI_INLINE void bfloat16_split(float* cells, const float* x, int width) {
    uint32_t pairs[kGroupK / 2];
    bfloat16_pairs(pairs, x, width);
    for (int i = 0; i < kGroupK / 2; ++i) {
        const uint32_t halves[2] = {pairs[i] & 0xffff0000u, pairs[i] << 16};
        memcpy(cells + 2 * i, halves, sizeof halves);
    }
}

// Integers of a whole group from `x`, zeros beyond `width`, in [-limit, limit]; returns the scale.
template <class Integer>
PAGECLI_INLINE float narrow_group(uint32_t* cells, const float* x, int width, float limit) {
    alignas(64) float values[kGroupK] = {};
    alignas(64) int32_t q[kGroupK];
    Integer narrow[kGroupK];
    memcpy(values, x, static_cast<size_t>(width) * sizeof(float));
    const float scale = quantize_group(q, values, limit);
    for (int k = 0; k < kGroupK; ++k) narrow[k] = static_cast<Integer>(q[k]);
    memcpy(cells, narrow, sizeof narrow);
    return scale;
}

// The bytes of a whole group from `x`, zeros beyond `width`, rotated; returns the scale.
PAGECLI_INLINE float rotated_group(int8_t* q, const float* x, int width) {
    if (width == kGroupK) return rotate_and_quantize(q, x);
    alignas(64) float values[kGroupK] = {};
    memcpy(values, x, static_cast<size_t>(width) * sizeof(float));
    return rotate_and_quantize(q, values);
}

// The bits of an integer as those of a float.
PAGECLI_INLINE float as_float(int32_t n) {
    float bits;
    memcpy(&bits, &n, sizeof bits);
    return bits;
}

// to[count][ROWS] = from[ROWS][count], whose rows are `stride` apart.
template <int ROWS, class Cell>
PAGECLI_INLINE void interleave(Cell* to, const Cell* from, int64_t stride, int count) {
    for (int c = 0; c < count; ++c) {
        PAGECLI_UNROLL
        for (int r = 0; r < ROWS; ++r) to[c * ROWS + r] = from[r * stride + c];
    }
}

// The cells of one row's group of integers from `x`, zeros beyond `width`, and its scales, of a tile of `rows` rows.
template <CellType type>
PAGECLI_INLINE void lay_group(uint32_t* cells, float* scale, int rows, const float* x, int width) {
    if constexpr (type == CellType::int16_pair) *scale = narrow_group<int16_t>(cells, x, width, kLargestX);
    if constexpr (type == CellType::int8_quad) {
        *scale = narrow_group<int8_t>(cells, x, width, kLargestByte);
        scale[rows] = as_float(start_of_offset(reinterpret_cast<const int8_t*>(cells), kBoundsZero));
    }
    if constexpr (type == CellType::rotated_quad) {
        alignas(64) int8_t q[kGroupK];
        *scale = rotated_group(q, x, width);
        scale[rows] = as_float(start_of_quads(q));
        lay_quad_x(cells, q);
    }
}

// ROWS rows of x, one tile's, into its cells and scales.
template <CellType type, int ROWS>
void lay_tile(Cell<type>* cells, float* scale, const float* x, int64_t x_stride, int64_t cols, int64_t cells_per_row) {
    if constexpr (type == CellType::float32) {
        interleave<ROWS>(cells, x, x_stride, static_cast<int>(cols));
    } else {
        constexpr int kPerGroup = static_cast<int>(kGroupK) / k_per_cell(type);
        constexpr bool is_of_integers = scales_per_group(type) > 0;
        [[maybe_unused]] Cell<type> group[ROWS][kPerGroup];
        for (int64_t k = 0, cell = 0; cell < cells_per_row; k += kGroupK, cell += kPerGroup) {
            const int width = static_cast<int>(cols - k < kGroupK ? cols - k : kGroupK);
            for (int r = 0; r < ROWS; ++r) {
                const float* from = x + r * x_stride + k;
                if constexpr (type == CellType::bfloat16_pair) bfloat16_pairs(group[r], from, width);
                if constexpr (type == CellType::bfloat16_split) bfloat16_split(group[r], from, width);
                if constexpr (is_of_integers) lay_group<type>(cells + cell * ROWS + r * kPerGroup, scale + r, ROWS, from, width);
            }
            scale += scales_per_group(type) * ROWS;
            const int count = static_cast<int>(cells_per_row - cell < kPerGroup ? cells_per_row - cell : kPerGroup);
            if constexpr (!is_of_integers) interleave<ROWS>(cells + cell * ROWS, group[0], kPerGroup, count);
        }
    }
}

template <CellType type, int ROWS = kMaxTileRows>
void lay_tile_of(int rows, Cell<type>* cells, float* scale, const float* x, int64_t x_stride, int64_t cols,
                 int64_t cells_per_row) {
    if (rows == ROWS) return lay_tile<type, ROWS>(cells, scale, x, x_stride, cols, cells_per_row);
    if constexpr (ROWS > 1) lay_tile_of<type, ROWS - 1>(rows, cells, scale, x, x_stride, cols, cells_per_row);
}

// x[tokens, cols] laid out in `memory`: tokens * (cells_per_row + num_scales) * 4 bytes.
template <CellType type>
Activations lay_out(void* memory, const RowTiles& tiles, const float* x, int64_t x_stride, int64_t tokens, int64_t cols,
                    int64_t cells_per_row) {
    Cell<type>* cells = static_cast<Cell<type>*>(memory);
    constexpr int kScales = scales_per_group(type);
    const int64_t num_scales = kScales * ((cols + kGroupK - 1) / kGroupK);
    float* scale = kScales > 0 ? reinterpret_cast<float*>(cells + tokens * cells_per_row) : nullptr;
    parallel_for(tiles.count, row_grain(2 * tiles.max_rows() * cols), [=, &tiles](int64_t begin, int64_t end) {
        for (int64_t tile = begin; tile < end; ++tile) {
            const int64_t row = tiles.first_row(tile);
            lay_tile_of<type>(tiles.rows(tile), cells + row * cells_per_row, kScales > 0 ? scale + row * num_scales : nullptr,
                              x + row * x_stride, x_stride, cols, cells_per_row);
        }
    });
    return {cells, cells_per_row, scale, num_scales};
}

}  // namespace pagecli::PAGECLI_ISA
