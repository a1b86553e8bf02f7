// relu, gelu, gelu_tanh, silu and relu2 over rows, plain and gated.
#include "pagecli/elementwise/activation.h"
#include "pagecli/elementwise/gated_activation.h"

#include "activation_vec.h"
#include "parallel.h"

namespace pagecli::PAGECLI_ISA {
namespace {

template <Activation kind>
void activate_row(float* out, const float* x, int64_t dim) {
    int64_t i = 0;
    for (; i + VecF::width <= dim; i += VecF::width) store(out + i, activate<kind>(load(x + i)));
    const int rest = static_cast<int>(dim - i);
    if (rest > 0) store_partial(out + i, activate<kind>(load_partial(x + i, rest)), rest);
}

template <Activation kind>
void gated_row(float* out, const float* gate, const float* up, int64_t dim) {
    int64_t i = 0;
    for (; i + VecF::width <= dim; i += VecF::width) store(out + i, activate<kind>(load(gate + i)) * load(up + i));
    const int rest = static_cast<int>(dim - i);
    if (rest > 0) store_partial(out + i, activate<kind>(load_partial(gate + i, rest)) * load_partial(up + i, rest), rest);
}

template <Activation kind>
void activate_rows(const ActivationArgs& a) {
    parallel_for(a.tokens, row_grain(a.dim), [&a](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t) activate_row<kind>(a.out + t * a.out_stride, a.x + t * a.x_stride, a.dim);
    });
}

PAGECLI_INLINE VecF clamped_gate(VecF gate, VecF up, float limit, float alpha) {
    const VecF one = broadcast(1.0f), most = broadcast(limit);  // in this order NaN stays NaN
    const VecF g = min(most, gate), u = max(zero() - most, min(most, up));
    return g / (one + exp(zero() - broadcast(alpha) * g)) * (u + one);
}

void clamped_row(float* out, const float* gate, const float* up, const GatedActivationArgs& a) {
    int64_t i = 0;
    for (; i + VecF::width <= a.dim; i += VecF::width) store(out + i, clamped_gate(load(gate + i), load(up + i), a.limit, a.alpha));
    const int rest = static_cast<int>(a.dim - i);
    if (rest > 0)
        store_partial(out + i, clamped_gate(load_partial(gate + i, rest), load_partial(up + i, rest), a.limit, a.alpha), rest);
}

// row(out, gate, up) for each group of each token.
template <class Row>
void for_groups(const GatedActivationArgs& a, const Row& row) {
    parallel_for(a.tokens, row_grain(2 * a.groups * a.dim), [&](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t) {
            for (int64_t g = 0; g < a.groups; ++g) {
                const float* gate = a.gate_up + t * a.gate_up_stride[0] + g * a.gate_up_stride[1];
                row(a.out + t * a.out_stride[0] + g * a.out_stride[1], gate, gate + a.dim);
            }
        }
    });
}

template <Activation kind>
void gated_rows(const GatedActivationArgs& a) {
    for_groups(a, [&a](float* out, const float* gate, const float* up) { gated_row<kind>(out, gate, up, a.dim); });
}

}  // namespace

void activation(const ActivationArgs& a) {
    switch (a.kind) {
        case Activation::none:
            return activate_rows<Activation::none>(a);
        case Activation::relu:
            return activate_rows<Activation::relu>(a);
        case Activation::gelu:
            return activate_rows<Activation::gelu>(a);
        case Activation::gelu_tanh:
            return activate_rows<Activation::gelu_tanh>(a);
        case Activation::silu:
            return activate_rows<Activation::silu>(a);
        case Activation::relu2:
            return activate_rows<Activation::relu2>(a);
    }
}

void gated_activation(const GatedActivationArgs& a) {
    if (a.limit > 0.0f)
        return for_groups(a, [&a](float* out, const float* gate, const float* up) { clamped_row(out, gate, up, a); });
    switch (a.kind) {
        case Activation::none:
            return gated_rows<Activation::none>(a);
        case Activation::relu:
            return gated_rows<Activation::relu>(a);
        case Activation::gelu:
            return gated_rows<Activation::gelu>(a);
        case Activation::gelu_tanh:
            return gated_rows<Activation::gelu_tanh>(a);
        case Activation::silu:
            return gated_rows<Activation::silu>(a);
        case Activation::relu2:
            return gated_rows<Activation::relu2>(a);
    }
}

}  // namespace pagecli::PAGECLI_ISA
