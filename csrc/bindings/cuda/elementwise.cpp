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

// Room for rows of 8-bit floats and for their scales, which are returned.
float* check_float8(const TensorView& out, const TensorView& scales, int64_t tokens, int64_t dim) {
    check_multiple("the last dimension in 8-bit floats", dim, 16, INT32_MAX);
    check_whole(out, "out", DType::uint8, {tokens, dim});
    check_whole(scales, "scales", DType::float32, {tokens, 1});
    return scales.as<float>();
}

// Of what an operation makes of rows of this type: in it, or with scales in 8-bit floats.
float* check_out(const TensorView& out, const TensorView& scales, cuda::ElementType type, int64_t tokens, int64_t dim) {
    if (!scales.given()) {
        check_rows(out, "out", type, {tokens, dim});
        return nullptr;
    }
    if (type == cuda::ElementType::float32) refuse("scales: expected bfloat16 or float16 beside them, got float32");
    return check_float8(out, scales, tokens, dim);
}

cuda::RmsNormArgs norm_args(const TensorView& out, const TensorView& x, const TensorView& weight, float eps,
                            const TensorView& added, const TensorView& scales) {
    const bool has_heads = x.ndim == 3;
    const cuda::ElementType type =
        has_heads ? check_rows(x, "x", {"tokens", "heads", "dim"}) : check_rows(x, "x", {"tokens", "dim"});
    const int64_t dim = x.shape[x.ndim - 1];
    check_multiple("x's last dimension", dim, 8, cuda::kMaxNormDim);
    float* scales_of = nullptr;
    if (has_heads) {
        if (scales.given()) refuse("scales: expected none beside heads");
        check_rows(out, "out", type, {x.shape[0], x.shape[1], dim});
        if (added.given()) check_rows(added, "added", type, {x.shape[0], x.shape[1], dim});
    } else {
        scales_of = check_out(out, scales, type, x.shape[0], dim);
        if (added.given()) check_rows(added, "added", type, {x.shape[0], dim});
    }
    check_vector(weight, "weight", dim);
    return {out.data,
            x.data,
            added.data,
            weight.as<const float>(),
            scales_of,
            {out.stride[0], head_stride(out)},
            {x.stride[0], head_stride(x)},
            {added.stride[0], head_stride(added)},
            x.shape[0],
            has_heads ? x.shape[1] : 1,
            dim,
            eps,
            type};
}

void rms_norm(const TensorView& out, const TensorView& x, const TensorView& weight, float eps, const TensorView& added,
              const TensorView& scales) {
    cuda::rms_norm(norm_args(out, x, weight, eps, added, scales), stream_of(x));
}

void layer_norm(const TensorView& out, const TensorView& x, const TensorView& weight, const TensorView& bias, float eps,
                const TensorView& added, const TensorView& scales) {
    const cuda::RmsNormArgs rows = norm_args(out, x, weight, eps, added, scales);
    check_vector(bias, "bias", rows.dim);
    cuda::layer_norm({rows, bias.as<const float>()}, stream_of(x));
}

void bias_activation(const TensorView& out, const TensorView& x, const char* name, const TensorView& bias,
                     const TensorView& scales) {
    const cuda::ElementType type = check_rows(x, "x", {"tokens", "dim"});
    float* scales_of = check_out(out, scales, type, x.shape[0], x.shape[1]);
    check_multiple("x's last dimension", x.shape[1], 8, INT32_MAX);
    if (bias.given()) check_vector(bias, "bias", x.shape[1]);
    cuda::bias_activation(
        {out.data, x.data, bias.as<const float>(), scales_of, out.stride[0], x.stride[0], x.shape[0], x.shape[1],
         kind_named(name), type},
        stream_of(x));
}

void gated_activation(const TensorView& out, const TensorView& gate_up, const char* name, const TensorView& bias, float limit,
                      float alpha, const TensorView& scales) {
    const cuda::ElementType type = check_rows(gate_up, "gate_up", {"tokens", "2 * dim"});
    float* scales_of = check_out(out, scales, type, gate_up.shape[0], gate_up.shape[1] / 2);
    check_rows(gate_up, "gate_up", type, {out.shape[0], 2 * out.shape[1]});
    check_multiple("out's last dimension", out.shape[1], 8, INT32_MAX);
    if (bias.given()) check_vector(bias, "bias", 2 * out.shape[1]);
    cuda::gated_activation({out.data, gate_up.data, bias.as<const float>(), scales_of, out.stride[0], gate_up.stride[0],
                            out.shape[0], out.shape[1], kind_named(name), limit, alpha, type},
                           stream_of(out));
}

void quantize_rows(const TensorView& out, const TensorView& scales, const TensorView& x) {
    const cuda::ElementType type = check_rows(x, "x", {"tokens", "dim"});
    check_float8(out, scales, x.shape[0], x.shape[1]);
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
    module.def("rms_norm", rms_norm, nb::arg("out"), nb::arg("x"), nb::arg("weight"), nb::arg("eps"), nb::arg("added").none(),
               nb::arg("scales").none());
}
void bind_layer_norm(nb::module_& module) {
    module.def("layer_norm", layer_norm, nb::arg("out"), nb::arg("x"), nb::arg("weight"), nb::arg("bias"), nb::arg("eps"),
               nb::arg("added").none(), nb::arg("scales").none());
}
void bind_bias_activation(nb::module_& module) {
    module.def("bias_activation", bias_activation, nb::arg("out"), nb::arg("x"), nb::arg("name"), nb::arg("bias").none(),
               nb::arg("scales").none());
}
void bind_gated_activation(nb::module_& module) {
    module.def("gated_activation", gated_activation, nb::arg("out"), nb::arg("gate_up"), nb::arg("name"), nb::arg("bias").none(),
               nb::arg("limit"), nb::arg("alpha"), nb::arg("scales").none());
}
void bind_quantize_rows(nb::module_& module) { module.def("quantize_rows", quantize_rows); }
void bind_embedding(nb::module_& module) {
    module.def("embedding", embedding, nb::arg("out"), nb::arg("token_ids"), nb::arg("weight"), nb::arg("positions").none(),
               nb::arg("positions_weight").none(), nb::arg("position_offset"));
}

}  // namespace pagecli
