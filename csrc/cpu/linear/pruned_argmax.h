// linear_argmax over all outputs, and over those that quantized upper bounds (quantized_bounds.h) do not prune.
//
// Of a row x and a weight w, quantized to x' and w', Cauchy-Schwarz bounds what quantization drops:
//   x.w = x'.w' + (x - x').w' + x.(w - w')  <=  x'.w' + |x - x'| |w'| + |x| |w - w'|
// and linear's own rounding adds at most rounding_of(weight) * |x| * (|w'| + |w - w'|). The panel with the largest x'.w' is
// computed from the weights; only panels whose bound is not below its largest sum can hold the argmax, and those are computed
// too. So the result is that of all outputs, to the bit, equal sums included.
#pragma once

#include <math.h>

#include <memory>

#include "linear_argmax.h"
#include "linear_run.h"
#include "pagecli/linear/pruned_argmax.h"

namespace pagecli::PAGECLI_ISA {

static inline void argmax_of_all(const LinearArgmaxArgs& a, const RowMasks* masks = nullptr) {
    for (int64_t row = 0; row < a.tokens; ++row) a.out[row] = 0;
    run(plan_of({nullptr, a.x, nullptr, 0, a.x_stride, a.tokens, a.weight, Activation::none, false, a.out, nullptr, 0, masks},
                keep_largest));
    for (int64_t row = 0; row < a.tokens; ++row) a.out[row] = token_of(a.out[row]);
}

// At most how far linear's sum of x and w is from x.w, and the quantized one from x'.w', in |x| |w|: half a unit in the last place for
// each k, twice that for what is added here; and where linear quantizes x, that. Here x is what linear multiplies: rounded to
// bfloat16 where it rounds it so, for which the worst of all roundings, 2^-8, would leave a quarter of a flat head's panels.
static inline double rounding_of(const PackedWeightView& weight) {
    const double sums = (2.0 * static_cast<double>(weight.cols) + 64.0) * 0x1p-24;
    if (weight.type == WeightType::int8) return sums + 0.032;  // of 8-bit x: half a step of each of 64, 4 / 127 of the group's largest
    return weight.type == WeightType::int8_a16 ? sums + 0x1p-11 : sums;
}

static inline bool rounds_x(const PackedWeightView& weight) { return weight.type == WeightType::bfloat16 && has_pair_dot; }

// The two factors of row x; of_error is 0 where the row cannot be bounded: not finite, huge or all zero.
static inline void bound_row(float* of_norm, float* of_error, const float* x, const PackedWeightView& weight) {
    const int64_t cols = weight.cols;
    const double rounding = rounding_of(weight);
    const bool rounded = rounds_x(weight);
    constexpr double kUp = 1.0 + 0x1p-20, kLargest = 1e18;
    double squares = 0.0, missed = 0.0;
    for (int64_t first = 0; first < cols; first += kGroupK) {
        alignas(64) float values[kGroupK] = {};
        alignas(64) int32_t q[kGroupK];
        const int64_t width = cols - first < kGroupK ? cols - first : kGroupK;
        memcpy(values, x + first, static_cast<size_t>(width) * sizeof(float));
        const double scale = static_cast<double>(quantize_group(q, values, kLargestByte));
        for (int k = 0; k < kGroupK; ++k) {
            const double value = static_cast<double>(rounded ? widen_bf16(round_to_bf16(values[k])) : values[k]);
            const double miss = value - scale * q[k];
            squares += value * value;
            missed += miss * miss;
        }
    }
    const double size = ::sqrt(squares);
    const bool bounded = size > 0.0 && size < kLargest;
    *of_norm = bounded ? static_cast<float>((::sqrt(missed) + rounding * size) * kUp) : 0.0f;
    *of_error = bounded ? static_cast<float>(size * (1.0 + rounding) * kUp) : 0.0f;
}

// A FinishFunction: sums[rows, cols] of quantized weights become the highest bound of each panel.
static inline void keep_upper_bounds(const LinearArgs& a, const float* sums, int64_t row, int rows, int64_t col, int cols) {
    constexpr float kUnderflow = 1e-30f;  // more than all that is lost where numbers become too small for float
    const UpperBounds& b = *a.bounds;
    const VecF none = broadcast(-__builtin_inff());
    const int count = static_cast<int>(a.weight.rows - col < cols ? a.weight.rows - col : cols);
    for (int r = 0; r < rows; ++r, sums += cols) {
        const int64_t index = a.first_row + row + r;
        const uint32_t* mask = a.masks == nullptr ? nullptr : a.masks->of_row[index];
        const VecF of_norm = broadcast(b.of_norm[index]), of_error = broadcast(b.of_error[index]);
        for (int c = 0; c < count; c += static_cast<int>(kPanelWidth)) {
            const int64_t panel = (col + c) / kPanelWidth;
            const uint32_t allowed = mask == nullptr ? 0 : panel_bits(mask, panel);
            const auto masked = [&](VecF v, int i) { return mask == nullptr ? v : select_bits(allowed >> i, v, none); };
            alignas(64) float estimate[kPanelWidth], bound[kPanelWidth];
            for (int i = 0; i < kPanelWidth; i += VecF::width) {
                const int64_t at = col + c + i;
                const VecF apart = fmadd(of_error, load(b.quantized.error + at), broadcast(kUnderflow));
                const VecF sum = load(sums + c + i) * load(b.quantized.scale + at);
                store(estimate + i, masked(sum, i));
                store(bound + i, masked(fmadd(of_norm, load(b.quantized.norm + at), apart) + sum, i));
            }
            const int here = min_int(static_cast<int>(kPanelWidth), count - c);
            b.upper[index * b.num_panels + panel] = largest_number(bound, here);
            const uint64_t likely = key_of(largest_number(estimate, here), panel);
            raise_to(b.likeliest + index, likely);
        }
    }
}

// Key of row x's largest sum: of panel `first` and of those that `upper` does not prune; 0 where those would be more than 1 in 16.
static inline int64_t settle_row(const PrunedArgmaxArgs& a, const float* x, const RowMasks* masks, const float* upper,
                                 int64_t num_panels, int64_t first, int64_t* num_computed) {
    constexpr int kMost = 1024;
    const int64_t most = num_panels / 16 < kMost ? num_panels / 16 : kMost;
    int64_t key = 0, left[kMost];
    const LinearArgs args = {nullptr, x, nullptr, 0, a.x_stride, 1, a.weight, Activation::none, false, &key, nullptr, 0, masks};
    const Plan plan = plan_of(args, keep_largest);
    const RowTiles one(1, plan.tiles);
    const Activations cells = lay_out_x(plan, one);
    run_item(plan, cells, one, 0, 1, first, first + 1);
    if (key == 0 || static_cast<uint64_t>(key) == kRefused) return 0;  // settle_rest looks at all of the row
    const float reached = value_of(key);
    int64_t count = 0;
    for (int64_t panel = 0; panel < num_panels; ++panel) {
        if (upper[panel] < reached || panel == first) continue;
        if (count == most) return 0;
        left[count++] = panel;
    }
    *num_computed = 1;
    for (int64_t i = 0; i < count; ++i) {
        if (upper[left[i]] < value_of(key)) continue;
        run_item(plan, cells, one, 0, 1, left[i], left[i] + 1);
        ++*num_computed;
    }
    return key;
}

// Rows whose out is -1, together, by all weights; returns how many.
static inline int64_t settle_rest(const PrunedArgmaxArgs& a, const RowMasks* masks) {
    int64_t count = 0;
    for (int64_t row = 0; row < a.tokens; ++row) count += a.out[row] < 0 ? 1 : 0;
    if (count == 0) return 0;
    const int64_t cols = a.weight.cols;
    const std::unique_ptr<float[]> x(new float[static_cast<size_t>(count * cols)]);
    const std::unique_ptr<int64_t[]> out(new int64_t[static_cast<size_t>(count)]);
    const std::unique_ptr<const uint32_t*[]> of_row(new const uint32_t*[static_cast<size_t>(count)]);
    int64_t next = 0;
    for (int64_t row = 0; row < a.tokens; ++row) {
        if (a.out[row] >= 0) continue;
        of_row[static_cast<size_t>(next)] = masks == nullptr ? nullptr : masks->of_row[row];
        memcpy(x.get() + next++ * cols, a.x + row * a.x_stride, static_cast<size_t>(cols) * sizeof(float));
    }
    const RowMasks of_rest = {of_row.get(), masks == nullptr ? nullptr : masks->any};
    argmax_of_all({out.get(), x.get(), cols, count, a.weight}, masks == nullptr ? nullptr : &of_rest);
    next = 0;
    for (int64_t row = 0; row < a.tokens; ++row)
        if (a.out[row] < 0) a.out[row] = out[static_cast<size_t>(next++)];
    return count;
}

static inline void bound_rows(const PrunedArgmaxArgs& a, const RowMasks* masks) {
    const int64_t num_panels = bounds_panels(a.weight.rows), tokens = a.tokens;
    int64_t* likeliest = static_cast<int64_t*>(thread_scratch(tokens * ((num_panels + 2) * 4 + 8), ScratchUse::bounds));
    float* of_norm = reinterpret_cast<float*>(likeliest + tokens);
    float *of_error = of_norm + tokens, *upper = of_error + tokens;
    memset(likeliest, 0, static_cast<size_t>(tokens) * sizeof(int64_t));
    for (int64_t panel = 0; masks != nullptr && panel < num_panels; ++panel) {
        if (masks->any[panel] != 0) continue;
        for (int64_t row = 0; row < tokens; ++row) upper[row * num_panels + panel] = -__builtin_inff();  // is not computed
    }
    parallel_for(tokens, row_grain(4 * a.weight.cols), [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row)
            bound_row(of_norm + row, of_error + row, a.x + row * a.x_stride, a.weight);
    });
    const BoundsView quantized(a.bounds, a.weight.rows, a.weight.cols);
    const UpperBounds bounds = {quantized, of_norm, of_error, upper, likeliest, num_panels};
    const PackedWeightView bytes = {quantized.bytes, a.weight.rows, a.weight.cols, a.weight.type};
    const LinearArgs args = {nullptr,          a.x,   nullptr, 0,       a.x_stride, tokens, bytes,
                             Activation::none, false, nullptr, &bounds, 0,          masks};
    run(plan_of_bounds(args, keep_upper_bounds));
    parallel_for(tokens, 1, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) {
            const float* x = a.x + row * a.x_stride;
            int64_t computed = 0, key = 0;
            const RowMasks of_row = {masks == nullptr ? nullptr : masks->of_row + row, nullptr};
            if (of_error[row] > 0.0f)
                key = settle_row(a, x, masks == nullptr ? nullptr : &of_row, upper + row * num_panels, num_panels,
                                 index_of(likeliest[row]), &computed);
            a.out[row] = token_of(key);
            __atomic_fetch_add(a.num_computed, computed, __ATOMIC_RELAXED);
        }
    });
    *a.num_computed += settle_rest(a, masks) * num_panels;
}

static inline void argmax_by_bounds(PrunedArgmaxArgs a, const RowMasks* masks = nullptr) {
    constexpr int64_t kMostRows = 128;  // bounds of more would not stay in the cache
    const int64_t all = a.tokens, parts = (all + kMostRows - 1) / kMostRows;
    int64_t first = 0;
    *a.num_computed = 0;
    for (int64_t part = 0; part < parts; ++part) {
        a.tokens = all * (part + 1) / parts - all * part / parts;
        const RowMasks of_part = masks == nullptr ? RowMasks{} : RowMasks{masks->of_row + first, masks->any};
        bound_rows(a, masks == nullptr ? nullptr : &of_part);
        first += a.tokens;
        a.out += a.tokens;
        a.x += a.tokens * a.x_stride;
    }
}

}  // namespace pagecli::PAGECLI_ISA
