// masked_argmax: rows by how much their masks allow. One output: nothing is computed. Few panels: those, row by row. Else together,
// with the quantized bounds where there are some, panels that no row may choose in left out.
#pragma once

#include <memory>

#include "pagecli/linear/masked_argmax.h"
#include "pruned_argmax.h"

namespace pagecli::PAGECLI_ISA {

// Whether the panels with an output that the mask allows are at most so many.
static inline bool has_few_panels(const uint32_t* mask, int64_t cols, int64_t most) {
    int64_t count = 0;
    for (int64_t word = 0; word < mask_words(cols) && count <= most; ++word)
        count += ((mask[word] & 0xffffu) != 0 ? 1 : 0) + ((mask[word] >> 16) != 0 ? 1 : 0);
    return count <= most;
}

// The row's token out of the panels that its mask allows something in.
static inline int64_t token_of_few(const MaskedArgmaxArgs& a, int64_t row, const uint32_t* mask) {
    int64_t key = 0;
    const float* x = a.x + row * a.x_stride;
    const RowMasks masks = {&mask, nullptr};
    const LinearArgs args = {nullptr, x, nullptr, 0, a.x_stride, 1, a.weight, Activation::none, false, &key, nullptr, 0, &masks};
    const Plan plan = plan_of(args, keep_largest);
    const RowTiles one(1, plan.tiles);
    const Activations cells = lay_out_x(plan, one);
    const int64_t num_panels = bounds_panels(a.weight.rows);
    for (int64_t panel = 0; panel < num_panels; ++panel)
        if (panel_bits(mask, panel) != 0) run_item(plan, cells, one, 0, 1, panel, panel + 1);
    return token_of(key);
}

// The rows whose out is kTogether, from all panels that one of them may choose in.
constexpr int64_t kTogether = -2;

static inline void settle_together(const MaskedArgmaxArgs& a, int64_t count) {
    const int64_t cols = a.weight.cols, num_panels = bounds_panels(a.weight.rows);
    const std::unique_ptr<float[]> x(new float[static_cast<size_t>(count * cols)]);
    const std::unique_ptr<int64_t[]> out(new int64_t[static_cast<size_t>(count)]);
    const std::unique_ptr<const uint32_t*[]> of_row(new const uint32_t*[static_cast<size_t>(count)]);
    const int64_t num_words = mask_words(a.weight.rows);
    const std::unique_ptr<uint32_t[]> every(new uint32_t[static_cast<size_t>(num_words)]());  // what any of them allows
    const std::unique_ptr<uint8_t[]> any(new uint8_t[static_cast<size_t>(num_panels)]());
    int64_t next = 0;
    for (int64_t row = 0; row < a.tokens; ++row) {
        if (a.out[row] != kTogether) continue;
        const uint32_t* mask = mask_of_row(a.masks, row, a.weight.rows);
        for (int64_t word = 0; word < num_words; ++word)
            every[static_cast<size_t>(word)] |= mask == nullptr ? ~uint32_t{0} : mask[word];
        memcpy(x.get() + next * cols, a.x + row * a.x_stride, static_cast<size_t>(cols) * sizeof(float));
        of_row[static_cast<size_t>(next++)] = mask;
    }
    for (int64_t panel = 0; panel < num_panels; ++panel) any[static_cast<size_t>(panel)] = panel_bits(every.get(), panel) != 0 ? 1 : 0;
    const RowMasks masks = {of_row.get(), any.get()};
    if (a.bounds == nullptr) {
        argmax_of_all({out.get(), x.get(), cols, count, a.weight}, &masks);
    } else {
        *a.num_bounded = count;
        argmax_by_bounds({out.get(), x.get(), cols, count, a.weight, a.bounds, a.num_computed}, &masks);
    }
    next = 0;
    for (int64_t row = 0; row < a.tokens; ++row)
        if (a.out[row] == kTogether) a.out[row] = out[static_cast<size_t>(next++)];
}

static inline void argmax_of_masked(const MaskedArgmaxArgs& a) {
    const int64_t num_panels = bounds_panels(a.weight.rows), few = num_panels / 16;  // as settle_row: a panel alone is dearer
    int64_t together = 0;
    *a.num_bounded = *a.num_computed = 0;
    parallel_for(a.tokens, 1, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) {
            const uint32_t* mask = mask_of_row(a.masks, row, a.weight.rows);
            int64_t token = mask == nullptr ? kTogether : only_allowed(mask, a.weight.rows);
            if (token == -2 && mask != nullptr && has_few_panels(mask, a.weight.rows, few)) token = token_of_few(a, row, mask);
            a.out[row] = token;
            if (token == kTogether) __atomic_fetch_add(&together, int64_t{1}, __ATOMIC_RELAXED);
        }
    });
    if (together > 0) settle_together(a, together);
}

}  // namespace pagecli::PAGECLI_ISA
