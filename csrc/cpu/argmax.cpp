// The largest value of a row is looked for by vectors, stretch by stretch; its index then in the one stretch that has it.
#include "pagecli/argmax.h"

#include "parallel.h"
#include "vec.h"

namespace pagecli::PAGECLI_ISA {
namespace {

constexpr int64_t kStretch = 1024;

float largest(const float* x, int64_t count) {
    float best = x[0];
    int64_t i = 0;
    if (count >= VecF::width) {
        VecF highest = load(x);
        for (i = VecF::width; i + VecF::width <= count; i += VecF::width) highest = max(highest, load(x + i));
        best = reduce_max(highest);
    }
    for (; i < count; ++i) best = x[i] > best ? x[i] : best;
    return best;
}

int64_t first_largest(const float* x, int64_t cols) {
    int64_t best_stretch = 0;
    float best = 0.0f;
    for (int64_t start = 0; start < cols; start += kStretch) {
        const float here = largest(x + start, cols - start < kStretch ? cols - start : kStretch);
        if (start == 0 || here > best) {
            best = here;
            best_stretch = start;
        }
    }
    for (int64_t i = best_stretch; i < cols; ++i)
        if (x[i] == best) return i;
    return best_stretch;  // a row of NaN
}

}  // namespace

void argmax(const ArgmaxArgs& a) {
    parallel_for(a.rows, row_grain(a.cols), [&a](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) a.out[row] = first_largest(a.x + row * a.x_stride, a.cols);
    });
}

}  // namespace pagecli::PAGECLI_ISA
