// router: softmax over the experts, and the largest by repeated search, of which there are a few among some dozens.
#include "pagecli/experts/router.h"

#include "isa/vec_math.h"
#include "parallel.h"

namespace pagecli::PAGECLI_ISA {
namespace {

// The sum of e^(x - highest), in a fixed order of `count`.
float sum_of_powers(const float* x, int64_t count, float highest) {
    const VecF shift = broadcast(highest);
    VecF total = zero();
    for (int64_t i = 0; i < count; i += VecF::width) {
        alignas(64) float powers[VecF::width] = {};
        const int lanes = count - i < VecF::width ? static_cast<int>(count - i) : VecF::width;
        store_partial(powers, exp(load_partial(x + i, lanes) - shift), lanes);
        total = total + load(powers);
    }
    return reduce_add(total);
}

float power_of(float x) {
    alignas(64) float lanes[VecF::width];
    store(lanes, exp(broadcast(x)));
    return lanes[0];
}

// Whether expert `e` was chosen before.
bool is_chosen(const int32_t* ids, int64_t count, int64_t e) {
    for (int64_t c = 0; c < count; ++c)
        if (ids[c] == e) return true;
    return false;
}

void choose_row(const RouterArgs& a, int64_t t) {
    const float* logits = a.logits + t * a.logits_stride;
    int32_t* ids = a.ids + t * a.ids_stride;
    float* weights = a.weights + t * a.weights_stride;
    for (int64_t c = 0; c < a.chosen; ++c) {
        int64_t best = -1;
        for (int64_t e = 0; e < a.experts; ++e)
            if ((best < 0 || logits[e] > logits[best]) && !is_chosen(ids, c, e)) best = e;
        ids[c] = static_cast<int32_t>(best);
    }
    const float highest = logits[ids[0]], of_all = sum_of_powers(logits, a.experts, highest);
    float of_chosen = 0.0f;
    for (int64_t c = 0; c < a.chosen; ++c) {
        weights[c] = power_of(logits[ids[c]] - highest);
        of_chosen += weights[c];
    }
    const float divisor = a.normalize && of_all == of_all ? of_chosen : of_all;
    for (int64_t c = 0; c < a.chosen; ++c) weights[c] /= divisor;
}

}  // namespace

void router(const RouterArgs& a) {
    parallel_for(a.tokens, row_grain(a.experts * (a.chosen + 4)), [&a](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t) choose_row(a, t);
    });
}

}  // namespace pagecli::PAGECLI_ISA
