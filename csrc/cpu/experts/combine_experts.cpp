// combine_experts: a weighted sum of a few rows.
#include "pagecli/experts/combine_experts.h"

#include "isa/vec_math.h"
#include "parallel.h"

namespace pagecli::PAGECLI_ISA {
namespace {

// fn(i, lanes) for every vector of `count` numbers.
template <class Function>
PAGECLI_INLINE void for_vectors(int64_t count, const Function& fn) {
    int64_t i = 0;
    for (; i + VecF::width <= count; i += VecF::width) fn(i, VecF::width);
    if (i < count) fn(i, static_cast<int>(count - i));
}

PAGECLI_INLINE VecF load_lanes(const float* from, int lanes) {
    return lanes == VecF::width ? load(from) : load_partial(from, lanes);
}

PAGECLI_INLINE float sigmoid_of(float x) {
    alignas(64) float lanes[VecF::width];
    store(lanes, broadcast(1.0f) / (broadcast(1.0f) + exp(broadcast(-x))));
    return lanes[0];
}

void combine_row(const CombineExpertsArgs& a, int64_t t) {
    const float* x = a.x + t * a.x_stride;
    const float* weights = a.weights + t * a.weights_stride;
    const float* shared = a.shared == nullptr ? nullptr : a.shared + t * a.shared_stride;
    const VecF gate = broadcast(a.gate == nullptr ? 1.0f : sigmoid_of(a.gate[t * a.gate_stride]));
    float* out = a.out + t * a.out_stride;
    for_vectors(a.width, [&](int64_t i, int lanes) {
        VecF sum = broadcast(weights[0]) * load_lanes(x + i, lanes);
        for (int64_t c = 1; c < a.chosen; ++c) sum = fmadd(broadcast(weights[c]), load_lanes(x + c * a.width + i, lanes), sum);
        if (shared != nullptr) sum = fmadd(gate, load_lanes(shared + i, lanes), sum);
        if (a.accumulate) sum = sum + load_lanes(out + i, lanes);
        if (lanes == VecF::width)
            store(out + i, sum);
        else
            store_partial(out + i, sum, lanes);
    });
}

}  // namespace

void combine_experts(const CombineExpertsArgs& a) {
    parallel_for(a.tokens, row_grain((a.chosen + 2) * a.width), [&a](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t) combine_row(a, t);
    });
}

}  // namespace pagecli::PAGECLI_ISA
