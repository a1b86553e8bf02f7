// Bindings of the operations on rows: norms with the residual's addition, activations with the bias, embedding.
#include <cstring>

#include "bind.h"
#include "device_tensor.h"
#include "pagecli/cuda/elementwise/bias_activation.h"
#include "pagecli/cuda/elementwise/embedding.h"
#include "pagecli/cuda/elementwise/gated_activation.h"
#include "pagecli/cuda/elementwise/layer_norm.h"
#include "pagecli/cuda/elementwise/quantize_rows.h"
#include "pagecli/cuda/elementwise/rms_norm.h"

namespace nb = nanobind;

namespace pagecli {
namespace {

Activation kind_named(const char* name) {
    constexpr const char* kNames[] = {"none", "relu", "gelu", "gelu_tanh", "silu", "relu2"};
    for (int i = 0; i < 6; ++i)
        if (std::strcmp(kNames[i], name) == 0) return static_cast<Activation>(i);
    refuse("activation: expected none, relu, gelu, gelu_tanh, silu or relu2, got %.40s", name);
}

cuda::RmsNormArgs norm_args(const TensorView& out, const TensorView& x, const TensorView& weight, float eps,
                            const TensorView& added) {
    const bool has_heads = x.ndim == 3;
    const cuda::ElementType type =
        has_heads ? check_rows(x, "x", {"tokens", "heads", "dim"}) : check_rows(x, "x", {"tokens", "dim"});
    const int64_t dim = x.shape[x.ndim - 1];
    check_multiple("x's last dimension", dim, 8, cuda::kMaxNormDim);
    for (const TensorView* other : {&out, &added}) {
        if (!other->given()) continue;
        const char* name = other == &out ? "out" : "added";
        if (has_heads) {
            check_rows(*other, name, type, {x.shape[0], x.shape[1], dim});
        } else {
            check_rows(*other, name, type, {x.shape[0], dim});
        }
    }
    if (!out.given()) check(out, "out", DType::float32, {});  // says what is missing
    check_vector(weight, "weight", dim);
    return {out.data,
            x.data,
            added.data,
            weight.as<const float>(),
            {out.stride[0], head_stride(out)},
            {x.stride[0], head_stride(x)},
            {added.stride[0], head_stride(added)},
            x.shape[0],
            has_heads ? x.shape[1] : 1,
            dim,
            eps,
            type};
}

void rms_norm(const TensorView& out, const TensorView& x, const TensorView& weight, float eps, const TensorView& added) {
    cuda::rms_norm(norm_args(out, x, weight, eps, added), stream_of(x));
}

void layer_norm(const TensorView& out, const TensorView& x, const TensorView& weight, const TensorView& bias, float eps,
                const TensorView& added) {
    const cuda::RmsNormArgs rows = norm_args(out, x, weight, eps, added);
    check_vector(bias, "bias", rows.dim);
    cuda::layer_norm({rows, bias.as<const float>()}, stream_of(x));
}

void bias_activation(const TensorView& out, const TensorView& x, const char* name, const TensorView& bias) {
    const cuda::ElementType type = check_rows(x, "x", {"tokens", "dim"});
    check_rows(out, "out", type, {x.shape[0], x.shape[1]});
    check_multiple("x's last dimension", x.shape[1], 8, INT32_MAX);
    if (bias.given()) check_vector(bias, "bias", x.shape[1]);
    cuda::bias_activation(
        {out.data, x.data, bias.as<const float>(), out.stride[0], x.stride[0], x.shape[0], x.shape[1], kind_named(name), type},
        stream_of(x));
}

void gated_activation(const TensorView& out, const TensorView& gate_up, const char* name, const TensorView& bias, float limit,
                      float alpha) {
    const cuda::ElementType type = check_rows(out, "out", {"tokens", "dim"});
    check_rows(gate_up, "gate_up", type, {out.shape[0], 2 * out.shape[1]});
    check_multiple("out's last dimension", out.shape[1], 8, INT32_MAX);
    if (bias.given()) check_vector(bias, "bias", 2 * out.shape[1]);
    cuda::gated_activation({out.data, gate_up.data, bias.as<const float>(), out.stride[0], gate_up.stride[0], out.shape[0],
                            out.shape[1], kind_named(name), limit, alpha, type},
                           stream_of(out));
}

void quantize_rows(const TensorView& out, const TensorView& scales, const TensorView& x) {
    const cuda::ElementType type = check_rows(x, "x", {"tokens", "dim"});
    check_multiple("x's last dimension", x.shape[1], 16, INT32_MAX);
    check(out, "out", DType::uint8, {x.shape[0], x.shape[1]});
    check_contiguous(out, "out");
    check(scales, "scales", DType::float32, {x.shape[0], 1});
    check_contiguous(scales, "scales");
    cuda::quantize_rows({out.data, scales.as<float>(), x.data, x.stride[0], x.shape[0], x.shape[1], type}, stream_of(x));
}

void embedding(const TensorView& out, const TensorView& token_ids, const TensorView& weight, const TensorView& positions,
               const TensorView& positions_weight, int64_t position_offset) {
    const cuda::ElementType type = check_rows(weight, "weight", {"vocab", "dim"});
    check(token_ids, "token_ids", DType::int32, {"tokens"});
    check_rows(out, "out", type, {token_ids.shape[0], weight.shape[1]});
    check_multiple("weight's last dimension", weight.shape[1], 8, INT32_MAX);
    if (positions_weight.given()) {
        check_rows(positions_weight, "positions_weight", type, {"rows", weight.shape[1]});
        check(positions, "positions", DType::int32, {token_ids.shape[0]});
    }
    cuda::embedding({out.data, token_ids.as<const int32_t>(), weight.data, positions.as<const int32_t>(), positions_weight.data,
                     position_offset, out.stride[0], weight.stride[0], positions_weight.stride[0], token_ids.shape[0],
                     weight.shape[1], type},
                    stream_of(out));
}

}  // namespace

void bind_rms_norm(nb::module_& module) {
    module.def("rms_norm", rms_norm, nb::arg("out"), nb::arg("x"), nb::arg("weight"), nb::arg("eps"), nb::arg("added").none());
}
void bind_layer_norm(nb::module_& module) {
    module.def("layer_norm", layer_norm, nb::arg("out"), nb::arg("x"), nb::arg("weight"), nb::arg("bias"), nb::arg("eps"),
               nb::arg("added").none());
}
void bind_bias_activation(nb::module_& module) {
    module.def("bias_activation", bias_activation, nb::arg("out"), nb::arg("x"), nb::arg("name"), nb::arg("bias").none());
}
void bind_gated_activation(nb::module_& module) {
    module.def("gated_activation", gated_activation, nb::arg("out"), nb::arg("gate_up"), nb::arg("name"), nb::arg("bias").none(),
               nb::arg("limit"), nb::arg("alpha"));
}
void bind_quantize_rows(nb::module_& module) { module.def("quantize_rows", quantize_rows); }
void bind_embedding(nb::module_& module) {
    module.def("embedding", embedding, nb::arg("out"), nb::arg("token_ids"), nb::arg("weight"), nb::arg("positions").none(),
               nb::arg("positions_weight").none(), nb::arg("position_offset"));
}

}  // namespace pagecli
