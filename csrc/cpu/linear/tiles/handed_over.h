// The way out of a tile into the x of the next linear: what linear_activations.h makes of rows is made of a tile's sums while the
// core still holds them, so that a value between two products is never in memory as rows. The tiles of both are of the same rows.
#pragma once

#include "linear/linear_epilogue.h"
#include "linear/tiles/linear_activations.h"
#include "linear/tiles/linear_tile_amx.h"

namespace pagecli::PAGECLI_ISA {

constexpr int kMaxFinished = 32 * kPanelWidth * 2;  // sums of a tile: at most 32 rows x 2 panels, or 16 x 4

#if PAGECLI_HAS_MATRIX_UNIT
// finished[rows, cols] into the chunks of 32 k (linear_activations_unit.h) of a tile's cells.
PAGECLI_INLINE void lay_chunks(char* cells, const float* finished, int rows, int64_t col, int cols) {
    for (int c = 0; c < cols; c += VecF::width) {
        const int64_t k = col + c;
        char* line = cells + k / kChunkK * rows * kUnitRowBytes + k % kChunkK * 2;
        for (int r = 0; r < rows; ++r) store_bf16(reinterpret_cast<uint16_t*>(line + r * kUnitRowBytes), load(finished + r * cols + c));
    }
}
#endif

// sums[rows, cols] of out[row.., col..], finished, into the cells of the tile of these rows; weight.rows are whole chunks of k.
template <CellType type, Activation kind>
void hand_over(const LinearArgs& a, const float* sums, int64_t row, int rows, int64_t col, int cols) {
    alignas(64) float finished[kMaxFinished];
    for (int r = 0; r < rows; ++r) finish_row<kind>(a, finished + r * cols, sums + r * cols, col, cols);
    auto* cells = reinterpret_cast<uint32_t*>(a.out) + row * cells_of(type, a.weight.rows);
#if PAGECLI_HAS_MATRIX_UNIT
    if constexpr (is_of_unit(type)) return lay_chunks(reinterpret_cast<char*>(cells), finished, rows, col, cols);
#endif
    if constexpr (!is_of_unit(type)) {
        auto* first = reinterpret_cast<Cell<type>*>(cells) + col / k_per_cell(type) * rows;
        lay_tile_of<type>(rows, first, nullptr, finished, cols, cols, cols / k_per_cell(type));
    }
}

template <CellType type>
FinishFunction hand_over_function(Activation kind) {
    switch (kind) {
        case Activation::relu: return hand_over<type, Activation::relu>;
        case Activation::gelu: return hand_over<type, Activation::gelu>;
        case Activation::gelu_tanh: return hand_over<type, Activation::gelu_tanh>;
        case Activation::silu: return hand_over<type, Activation::silu>;
        case Activation::relu2: return hand_over<type, Activation::relu2>;
        case Activation::none: break;
    }
    return hand_over<type, Activation::none>;
}

// For x in cells of `type`, which weights of float32 and bfloat16 are multiplied with.
inline FinishFunction hand_over_function(CellType type, Activation kind) {
#if PAGECLI_HAS_MATRIX_UNIT
    if (type == CellType::bfloat16_unit) return hand_over_function<CellType::bfloat16_unit>(kind);
#endif
    if (type == CellType::bfloat16_pair) return hand_over_function<CellType::bfloat16_pair>(kind);
    if (type == CellType::bfloat16_split) return hand_over_function<CellType::bfloat16_split>(kind);
    return hand_over_function<CellType::float32>(kind);
}

}  // namespace pagecli::PAGECLI_ISA
