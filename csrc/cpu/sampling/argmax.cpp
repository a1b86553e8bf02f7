// The largest value of a row is looked for by vectors, stretch by stretch; its index then in the one stretch that has it.
#include "pagecli/sampling/argmax.h"

#include "highest_logit.h"
#include "parallel.h"

namespace pagecli::PAGECLI_ISA {
namespace {

constexpr int64_t kStretch = 1024;

int64_t first_largest(const float* x, int64_t cols) {
    int64_t best_stretch = 0;
    float best = -__builtin_inff();
    for (int64_t start = 0; start < cols; start += kStretch) {
        HighestLogit seen = no_logits();
        see(seen, x + start, cols - start < kStretch ? cols - start : kStretch);
        if (!all_usable(seen)) return -1;
        const float here = reduce_max(seen.highest);
        if (here > best) {
            best = here;
            best_stretch = start;
        }
    }
    if (best == -__builtin_inff()) return -1;
    int64_t i = best_stretch;
    while (x[i] != best) ++i;
    return i;
}

}  // namespace

void argmax(const ArgmaxArgs& a) {
    parallel_for(a.rows, row_grain(a.cols), [&a](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) a.out[row] = first_largest(a.x + row * a.x_stride, a.cols);
    });
}

}  // namespace pagecli::PAGECLI_ISA
