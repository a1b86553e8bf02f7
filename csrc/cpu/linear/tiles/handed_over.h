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

// Of a gated product: sums[rows, panel of the first half, its one of the second], handed over or in rows of out.
template <Activation kind>
void finish_gated(const LinearArgs& a, const float* sums, int64_t row, int rows, int64_t col, int) {
    constexpr int kWidth = static_cast<int>(kPanelWidth);
    alignas(64) float finished[kMaxUnitRows * kWidth];
    const int64_t cols = a.weight.rows / 2, first = col / 2;
    for (int r = 0; r < rows; ++r) {
        float* to = a.hands_over ? finished + r * kWidth : a.out + (row + r) * a.out_stride + first;
        for (int c = 0; c < kWidth; c += VecF::width) {
            VecF gate = load(sums + 2 * r * kWidth + c), up = load(sums + (2 * r + 1) * kWidth + c);
            if (a.bias != nullptr) {
                gate = gate + load(a.bias + first + c);
                up = up + load(a.bias + cols + first + c);
            }
            store(to + c, activate<kind>(gate) * up);
        }
    }
    char* cells = reinterpret_cast<char*>(a.out) + row * cells_of(CellType::bfloat16_unit, cols) * 4;
    if (a.hands_over) lay_chunks(cells, finished, rows, first, kWidth);
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
struct IntoCells {
    template <Activation kind>
    struct Finish {
        static constexpr FinishFunction function = hand_over<type, kind>;
    };
};
#if PAGECLI_HAS_MATRIX_UNIT
template <Activation kind>
struct Gated {
    static constexpr FinishFunction function = finish_gated<kind>;
};
#endif

// For x in cells of `type`, which weights of float32 and bfloat16 are multiplied with.
inline FinishFunction hand_over_function(CellType type, const LinearArgs& a) {
#if PAGECLI_HAS_MATRIX_UNIT
    if (a.is_gated) return of_activation<Gated>(a.activation);
    if (type == CellType::bfloat16_unit) return of_activation<IntoCells<CellType::bfloat16_unit>::Finish>(a.activation);
#endif
    if (type == CellType::bfloat16_pair) return of_activation<IntoCells<CellType::bfloat16_pair>::Finish>(a.activation);
    if (type == CellType::bfloat16_split) return of_activation<IntoCells<CellType::bfloat16_split>::Finish>(a.activation);
    return of_activation<IntoCells<CellType::float32>::Finish>(a.activation);
}

}  // namespace pagecli::PAGECLI_ISA
