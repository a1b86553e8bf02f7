// What follows the sums of linear: bias, activation, residual, and the way out of a tile into rows.
#pragma once

#include <stdint.h>

#include "elementwise/activation_vec.h"
#include "pagecli/linear/linear.h"

namespace pagecli::PAGECLI_ISA {

// out[count] (+)= kind(sums[count] + bias[col ..])
template <Activation kind>
PAGECLI_INLINE void finish_row(const LinearArgs& a, float* out, const float* sums, int64_t col, int count) {
    for (int c = 0; c < count; c += VecF::width) {
        const int lanes = min_int(VecF::width, count - c);
        const bool whole = lanes == VecF::width;
        VecF v = load(sums + c);
        if (a.bias != nullptr) v = v + (whole ? load(a.bias + col + c) : load_partial(a.bias + col + c, lanes));
        v = activate<kind>(v);
        if (a.accumulate) v = v + (whole ? load(out + c) : load_partial(out + c, lanes));
        if (whole)
            store(out + c, v);
        else
            store_partial(out + c, v, lanes);
    }
}

template <Activation kind>
void finish_tile(const LinearArgs& a, const float* sums, int64_t row, int rows, int64_t col, int cols) {
    const int count = static_cast<int>(a.weight.rows - col < cols ? a.weight.rows - col : cols);
    for (int r = 0; r < rows; ++r)
        finish_row<kind>(a, a.out + (row + r) * a.out_stride + col, sums + r * cols, col, count);
}

// Brings near where finish will write sums[rows, cols]. Stores that wait for their lines hold up all that follows; during a tile's
// products they come unnoticed: 492 rows times 768 x 3,072 on two cores with AMX took 1.2 to 1.3 times as long without.
PAGECLI_INLINE void fetch_out(const LinearArgs& a, int64_t row, int rows, int64_t col, int cols) {
    if (a.out == nullptr || a.hands_over || a.is_gated) return;  // of an argmax; of lines that follow each other
    for (int64_t r = row; r < row + rows; ++r) {
        const float* out = a.out + (a.out_rows == nullptr ? r : a.out_rows[r]) * a.out_stride + col;
        for (int c = 0; c < cols; c += 16) __builtin_prefetch(out + c, 1, 3);
    }
}

// sums[rows, cols], cols whole panels, belongs to out[row.., col..]; columns beyond the weight's rows are padding.
using FinishFunction = void (*)(const LinearArgs& a, const float* sums, int64_t row, int rows, int64_t col, int cols);

// Finish<kind>::function of the activation that is not known until a linear runs.
template <template <Activation> class Finish>
FinishFunction of_activation(Activation kind) {
    switch (kind) {
        case Activation::relu: return Finish<Activation::relu>::function;
        case Activation::gelu: return Finish<Activation::gelu>::function;
        case Activation::gelu_tanh: return Finish<Activation::gelu_tanh>::function;
        case Activation::silu: return Finish<Activation::silu>::function;
        case Activation::relu2: return Finish<Activation::relu2>::function;
        case Activation::none: break;
    }
    return Finish<Activation::none>::function;
}

template <Activation kind>
struct IntoRows {
    static constexpr FinishFunction function = finish_tile<kind>;
};
inline FinishFunction finish_function(Activation kind) { return of_activation<IntoRows>(kind); }

}  // namespace pagecli::PAGECLI_ISA
