// LayerNorm (Ba et al., 2016): the mean first, then the squares of the differences, so that a large mean costs no digits.
#include "isa/vec.h"
#include "pagecli/elementwise/layer_norm.h"
#include "parallel.h"

namespace pagecli::PAGECLI_ISA {
namespace {

// sum of (x - shift)^power over the row, power 1 or 2
template <int power>
float sum_of_powers(const float* x, int64_t dim, float shift) {
    const int64_t whole = dim - dim % VecF::width;
    const int rest = static_cast<int>(dim - whole);
    VecF sum = zero();
    for (int64_t i = 0; i < whole; i += VecF::width) {
        const VecF v = load(x + i) - broadcast(shift);
        sum = power == 1 ? sum + v : fmadd(v, v, sum);
    }
    float tail = 0.0f;
    for (int i = 0; i < rest; ++i) {
        const float v = x[whole + i] - shift;
        tail += power == 1 ? v : v * v;
    }
    return reduce_add(sum) + tail;
}

void normalize_row(const LayerNormArgs& a, float* out, const float* x) {
    const float mean = sum_of_powers<1>(x, a.dim, 0.0f) / static_cast<float>(a.dim);
    const float variance = sum_of_powers<2>(x, a.dim, mean) / static_cast<float>(a.dim);
    const VecF center = broadcast(mean), scale = broadcast(1.0f / __builtin_sqrtf(variance + a.eps));
    int64_t i = 0;
    for (; i + VecF::width <= a.dim; i += VecF::width) {
        const VecF v = (load(x + i) - center) * scale;
        store(out + i, fmadd(v, load(a.weight + i), load(a.bias + i)));
    }
    const int rest = static_cast<int>(a.dim - i);
    if (rest > 0) {
        const VecF v = (load_partial(x + i, rest) - center) * scale;
        store_partial(out + i, fmadd(v, load_partial(a.weight + i, rest), load_partial(a.bias + i, rest)), rest);
    }
}

}  // namespace

void layer_norm(const LayerNormArgs& a) {
    parallel_for(a.tokens, row_grain(2 * a.dim), [&a](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t) normalize_row(a, a.out + t * a.out_stride, a.x + t * a.x_stride);
    });
}

}  // namespace pagecli::PAGECLI_ISA
