// x as a matrix unit reads it: 64 bytes of a row, 16 cells, at once, and the next row's after them.
//
//   bfloat16_unit  cells[tile][k / 32][rows of the tile][32 k], k padded to whole lines with zeros
//   int16_unit     cells[tile][k / 64][upper byte, lower 7 bits][laid_rows(rows)][64 k], scale[tile][k / 64][rows]
#pragma once

#include "linear_activations.h"
#include "linear_tile_amx_int8.h"

namespace pagecli::PAGECLI_ISA {

// The two halves of a group's 15-bit integers.
PAGECLI_INLINE void split_bytes(int8_t* upper, int8_t* lower, const int16_t* q) {
    for (int k = 0; k < kGroupK; ++k) {
        upper[k] = static_cast<int8_t>(q[k] >> kLowBits);
        lower[k] = static_cast<int8_t>(q[k] & ((1 << kLowBits) - 1));
    }
}

// A tile's rows; `step` bytes from one half of a group to the other, chunks of 32 k or upper and lower bytes.
template <CellType type>
void lay_unit_tile(char* to, float* scale, const float* x, int64_t x_stride, int rows, int64_t cols, int64_t step) {
    for (int64_t k = 0; k < cols; k += kGroupK, to += 2 * step) {
        const int width = static_cast<int>(cols - k < kGroupK ? cols - k : kGroupK);
        for (int r = 0; r < rows; ++r) {
            alignas(64) uint32_t group[kGroupK / 2];
            const float* from = x + r * x_stride + k;
            char* line = to + r * kUnitRowBytes;
            if constexpr (type == CellType::bfloat16_unit) {
                bfloat16_pairs(group, from, width);
                memcpy(line, group, kUnitRowBytes);
                if (width > kChunkK) memcpy(line + step, group + kCellsPerLine, kUnitRowBytes);
            } else {
                scale[r] = narrow_group<int16_t>(group, from, width, kLargestX);
                int8_t* upper = reinterpret_cast<int8_t*>(line);
                split_bytes(upper, upper + step, reinterpret_cast<const int16_t*>(group));
            }
        }
        if constexpr (type == CellType::int16_unit) scale += rows;
    }
}

// x[tokens, cols] laid out in `memory`: laid_rows(tokens) * cells_per_row cells and tokens * num_scales floats.
template <CellType type>
Activations lay_out_unit(void* memory, const RowTiles& tiles, const float* x, int64_t x_stride, int64_t tokens, int64_t cols,
                         int64_t cells_per_row) {
    constexpr bool kHasScales = type == CellType::int16_unit;
    uint32_t* cells = static_cast<uint32_t*>(memory);
    const int64_t num_scales = kHasScales ? (cols + kGroupK - 1) / kGroupK : 0;
    float* scale = kHasScales ? reinterpret_cast<float*>(cells + laid_rows(tokens) * cells_per_row) : nullptr;
    parallel_for(tiles.count, row_grain(2 * tiles.max_rows() * cols), [=, &tiles](int64_t begin, int64_t end) {
        for (int64_t tile = begin; tile < end; ++tile) {
            const int64_t row = tiles.first_row(tile);
            const int rows = tiles.rows(tile);
            const int64_t step = (kHasScales ? laid_rows(rows) : rows) * kUnitRowBytes;
            char* to = reinterpret_cast<char*>(cells + row * cells_per_row);
            float* to_scale = kHasScales ? scale + row * num_scales : nullptr;
            lay_unit_tile<type>(to, to_scale, x + row * x_stride, x_stride, rows, cols, step);
        }
    });
    return {cells, cells_per_row, scale, num_scales};
}

}  // namespace pagecli::PAGECLI_ISA
