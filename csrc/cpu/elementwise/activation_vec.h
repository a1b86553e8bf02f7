// The activation functions on one VecF, shared by the activations and by the linear layer that ends in one.
#pragma once

#include "isa/vec_math.h"
#include "pagecli/elementwise/activation.h"

namespace pagecli::PAGECLI_ISA {

template <Activation kind>
PAGECLI_INLINE VecF activate(VecF x) {
    const VecF one = broadcast(1.0f), half = broadcast(0.5f);
    if constexpr (kind == Activation::relu) {
        return max(zero(), x);  // in this order NaN stays NaN
    } else if constexpr (kind == Activation::gelu) {
        return half * x * (one + erf(x * broadcast(0.707106781f)));
    } else if constexpr (kind == Activation::gelu_tanh) {
        const VecF cubic = fmadd(x * x * x, broadcast(0.044715f), x);
        return half * x * (one + tanh(cubic * broadcast(0.797884561f)));  // sqrt(2 / pi)
    } else if constexpr (kind == Activation::silu) {
        return x / (one + exp(zero() - x));
    } else if constexpr (kind == Activation::relu2) {
        const VecF positive = max(zero(), x);
        return positive * positive;
    } else {
        return x;
    }
}

}  // namespace pagecli::PAGECLI_ISA
