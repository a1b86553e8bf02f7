// RMSNorm (Zhang and Sennrich, 2019) over rows of any stride: hidden states, and the heads of q and k inside a fused buffer.
#include "isa/vec.h"
#include "pagecli/elementwise/rms_norm.h"
#include "parallel.h"

namespace pagecli::PAGECLI_ISA {
namespace {

template <bool accumulate>
void normalize_row(float* out, const float* x, const float* weight, int64_t dim, float eps) {
    const int64_t whole = dim - dim % VecF::width;
    const int rest = static_cast<int>(dim - whole);
    VecF squares = zero();
    for (int64_t i = 0; i < whole; i += VecF::width) {
        const VecF v = load(x + i);
        squares = fmadd(v, v, squares);
    }
    if (rest > 0) {
        const VecF v = load_partial(x + whole, rest);
        squares = fmadd(v, v, squares);
    }
    const float mean = reduce_add(squares) / static_cast<float>(dim);
    const VecF scale = broadcast(1.0f / __builtin_sqrtf(mean + eps));
    for (int64_t i = 0; i < whole; i += VecF::width) {
        const VecF v = load(x + i) * scale * load(weight + i);
        store(out + i, accumulate ? load(out + i) + v : v);
    }
    if (rest > 0) {
        const VecF v = load_partial(x + whole, rest) * scale * load_partial(weight + whole, rest);
        store_partial(out + whole, accumulate ? load_partial(out + whole, rest) + v : v, rest);
    }
}

}  // namespace

void rms_norm(const RmsNormArgs& a) {
    parallel_for(a.tokens, row_grain(2 * a.heads * a.dim), [&a](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t) {
            for (int64_t h = 0; h < a.heads; ++h) {
                float* out = a.out + t * a.out_stride[0] + h * a.out_stride[1];
                const float* x = a.x + t * a.x_stride[0] + h * a.x_stride[1];
                if (a.accumulate)
                    normalize_row<true>(out, x, a.weight, a.dim, a.eps);
                else
                    normalize_row<false>(out, x, a.weight, a.dim, a.eps);
            }
        }
    });
}

}  // namespace pagecli::PAGECLI_ISA
