// Arguments of linear: out (+)= activation(x @ weight^T + bias), sums in float32.
//
// out[m, n] is summed over k in ascending order whatever the batch, the tiling and the number of threads are, so a row's
// result depends, bit for bit, on that row alone. Instruction sets differ: avx512bf16 and amx round x for
// bfloat16 weights, and amx sums 32 k at a time. Quantized weights (quantized_weight.h) give
// the bits of what they stand for, packed as their type. For int8 weights x is quantized to 15 bits, 64 k of a row with one scale.
#pragma once

#include <stdint.h>

#include "pagecli/elementwise/activation.h"
#include "pagecli/linear/packed_weight.h"

namespace pagecli {

// What each row of linear_argmax may choose (sampling/token_mask.h). `any` null: every panel is computed.
struct RowMasks {
    const uint32_t* const* of_row;  // [tokens]: mask_words(weight.rows) words; null: everything
    const uint8_t* any;             // [panels]: 0 where no row may choose
};

struct LinearArgs {
    float* out;         // [tokens, weight.rows], rows out_stride elements apart; must not overlap x
    const float* x;     // [tokens, weight.cols], rows x_stride elements apart
    const float* bias;  // [weight.rows], or null
    int64_t out_stride, x_stride;
    int64_t tokens;
    PackedWeightView weight;
    Activation activation;
    bool accumulate;  // add to out (a residual) instead of overwriting it
    int64_t* best = nullptr;  // of linear_argmax: keys of the largest sums so far, in place of out
    const struct UpperBounds* bounds = nullptr;  // of pruned_argmax: in place of out too
    int64_t first_row = 0;                       // of x, in best, bounds and masks
    const RowMasks* masks = nullptr;     // with best: only some of the sums count
    const int32_t* out_rows = nullptr;   // of grouped_linear: [tokens], where in out each row goes
    // A value between two products of one weight type, float32 or bfloat16, not quantized, and of whole 32 columns lies as the second
    // one multiplies it: laid out in the memory of its rows, which lie without gaps.
    bool hands_over = false, x_is_handed_over = false;
    // out[tokens, weight.rows / 2] = activation(first half of the sums) * second half. Of a matrix unit's bfloat16, whole 32 columns of out.
    bool is_gated = false;
};

}  // namespace pagecli
