// x as a matrix unit reads it: 64 bytes of a row, 16 cells, at once, and the next row's after them.
//
//   bfloat16_unit  cells[tile][k / 32][rows of the tile][32 k], k padded to whole lines with zeros
//   int16_unit     cells[tile][k / 64][upper byte, lower 7 bits][laid_rows(rows)][64 k], scale[tile][k / 64][laid_rows(rows)]
//   rotated_unit   cells[tile][k / 64][laid_rows(rows)][64 k], scale[tile][k / 64][laid_rows(rows)]
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

// Where a row's first line is, and the step from one half of a group to the other, chunks of 32 k or upper and lower bytes, or to
// the next group; both in bytes.
struct UnitRow {
    char* line;
    int64_t step;
    float* scale;
    int64_t scale_step;
};

template <CellType type>
void lay_unit_row(UnitRow to, const float* x, int64_t cols) {
    for (int64_t k = 0; k < cols; k += kGroupK) {
        const int width = static_cast<int>(cols - k < kGroupK ? cols - k : kGroupK);
        alignas(64) uint32_t group[kGroupK / 2];
        if constexpr (type == CellType::bfloat16_unit) {
            bfloat16_pairs(group, x + k, width);
            memcpy(to.line, group, kUnitRowBytes);
            if (width > kChunkK) memcpy(to.line + to.step, group + kCellsPerLine, kUnitRowBytes);
        } else if constexpr (type == CellType::rotated_unit) {
            *to.scale = rotated_group(reinterpret_cast<int8_t*>(to.line), x + k, width);
        } else {
            *to.scale = narrow_group<int16_t>(group, x + k, width, kLargestX);
            int8_t* upper = reinterpret_cast<int8_t*>(to.line);
            split_bytes(upper, upper + to.step, reinterpret_cast<const int16_t*>(group));
        }
        to.line += (type == CellType::rotated_unit ? 1 : 2) * to.step;
        if constexpr (has_whole_units(type)) to.scale += to.scale_step;
    }
}

// x[tokens, cols] laid out in `memory`: laid_rows(tokens) * cells_per_row cells and laid_rows(tokens) * num_scales floats.
template <CellType type>
Activations lay_out_unit(void* memory, const RowTiles& tiles, const float* x, int64_t x_stride, int64_t tokens, int64_t cols,
                         int64_t cells_per_row) {
    constexpr bool kHasScales = has_whole_units(type);
    uint32_t* cells = static_cast<uint32_t*>(memory);
    const int64_t num_scales = kHasScales ? (cols + kGroupK - 1) / kGroupK : 0;
    float* scale = kHasScales ? reinterpret_cast<float*>(cells + laid_rows(tokens) * cells_per_row) : nullptr;
    const int64_t height = tiles.height, laid = kHasScales ? laid_rows(tokens) : tokens;
    parallel_for(laid, row_grain(4 * cols), [=](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) {
            const int64_t first = row / height * height, rows = first + height < laid ? height : laid - first;
            char* line = reinterpret_cast<char*>(cells + first * cells_per_row) + (row - first) * kUnitRowBytes;
            const UnitRow to = {line, rows * kUnitRowBytes, kHasScales ? scale + first * num_scales + (row - first) : nullptr, rows};
            if (row < tokens) lay_unit_row<type>(to, x + row * x_stride, cols);
            for (int64_t i = 0; row >= tokens && i < num_scales; ++i) to.scale[i * rows] = 0.0f;  // of rows that are not there
        }
    });
    return {cells, cells_per_row, scale, num_scales};
}

}  // namespace pagecli::PAGECLI_ISA
