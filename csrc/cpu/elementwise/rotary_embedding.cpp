// Rotary position embedding of q and k in place, both usually views into one fused qkv buffer.
#include "pagecli/elementwise/rotary_embedding.h"

#include "isa/vec.h"
#include "parallel.h"

namespace pagecli::PAGECLI_ISA {
namespace {

void rotate(float* x, const float* cos, const float* sin, int64_t half) {
    int64_t i = 0;
    for (; i + VecF::width <= half; i += VecF::width) {
        const VecF a = load(x + i), b = load(x + half + i), c = load(cos + i), s = load(sin + i);
        store(x + i, a * c - b * s);
        store(x + half + i, fmadd(b, c, a * s));
    }
    const int rest = static_cast<int>(half - i);
    if (rest > 0) {
        const VecF a = load_partial(x + i, rest), b = load_partial(x + half + i, rest);
        const VecF c = load_partial(cos + i, rest), s = load_partial(sin + i, rest);
        store_partial(x + i, a * c - b * s, rest);
        store_partial(x + half + i, fmadd(b, c, a * s), rest);
    }
}

}  // namespace

void rotary_embedding(const RotaryEmbeddingArgs& a) {
    const int64_t half = a.rotary_dim / 2;
    parallel_for(a.tokens, row_grain((a.heads + a.kv_heads) * a.rotary_dim), [&a, half](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t) {
            const float* cos = a.cos_sin + a.positions[t] * a.cos_sin_stride;
            float *q = a.q + t * a.q_stride[0], *k = a.k + t * a.k_stride[0];
            for (int64_t h = 0; h < a.heads; ++h) rotate(q + h * a.q_stride[1], cos, cos + half, half);
            for (int64_t h = 0; h < a.kv_heads; ++h) rotate(k + h * a.k_stride[1], cos, cos + half, half);
        }
    });
}

}  // namespace pagecli::PAGECLI_ISA
