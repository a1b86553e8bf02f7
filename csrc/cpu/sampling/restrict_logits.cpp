// Word by word: most words of a mask allow all of their outputs or none.
#include "pagecli/sampling/restrict_logits.h"

#include "parallel.h"

namespace pagecli::PAGECLI_ISA {
namespace {

void mask_row(float* logits, const uint32_t* mask, int64_t cols) {
    const int64_t only = only_allowed(mask, cols);
    for (int64_t first = 0; first < cols; first += 32) {
        const uint32_t word = mask[first / 32];
        if (word == 0xffffffffu) continue;
        const int64_t count = cols - first < 32 ? cols - first : 32;
        for (int64_t i = 0; i < count; ++i) logits[first + i] = (word >> i & 1u) != 0 ? logits[first + i] : -__builtin_inff();
    }
    if (only >= 0) logits[only] = 0.0f;
}

}  // namespace

void restrict_logits(const RestrictLogitsArgs& a) {
    parallel_for(a.rows, row_grain(a.cols), [&a](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) {
            const uint32_t* mask = mask_of_row(a.masks, row, a.cols);
            if (mask != nullptr) mask_row(a.logits + row * a.logits_stride, mask, a.cols);
        }
    });
}

}  // namespace pagecli::PAGECLI_ISA
