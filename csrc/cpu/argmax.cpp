// The largest value of a row is looked for by vectors, stretch by stretch; its index then in the one stretch that has it.
#include "pagecli/argmax.h"

#include "parallel.h"
#include "vec.h"

namespace pagecli::PAGECLI_ISA {
namespace {

constexpr int64_t kStretch = 1024;

// The largest number among them; -inf where there is none.
float largest(const float* x, int64_t count) {
    VecF highest = broadcast(-__builtin_inff());
    int64_t i = 0;
    for (; i + VecF::width <= count; i += VecF::width) highest = max(load(x + i), highest);  // of NaN and a number: the number
    float best = reduce_max(highest);
    for (; i < count; ++i) best = x[i] > best ? x[i] : best;
    return best;
}

int64_t first_largest(const float* x, int64_t cols) {
    int64_t best_stretch = 0;
    float best = -__builtin_inff();
    for (int64_t start = 0; start < cols; start += kStretch) {
        const float here = largest(x + start, cols - start < kStretch ? cols - start : kStretch);
        if (here > best) {
            best = here;
            best_stretch = start;
        }
    }
    for (int64_t i = best_stretch; i < cols; ++i)
        if (x[i] == best) return i;
    return 0;  // a row of NaN
}

}  // namespace

void argmax(const ArgmaxArgs& a) {
    parallel_for(a.rows, row_grain(a.cols), [&a](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) a.out[row] = first_largest(a.x + row * a.x_stride, a.cols);
    });
}

}  // namespace pagecli::PAGECLI_ISA
