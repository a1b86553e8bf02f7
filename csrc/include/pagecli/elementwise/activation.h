// Arguments of the activation functions.
#pragma once

#include <stdint.h>

namespace pagecli {

enum class Activation : int32_t { none, relu, gelu, gelu_tanh, silu, relu2 };

// out = kind(x); out may be x.
struct ActivationArgs {
    float* out;      // [tokens, dim]
    const float* x;  // [tokens, dim]
    int64_t out_stride, x_stride;
    int64_t tokens, dim;
    Activation kind;
};

}  // namespace pagecli
