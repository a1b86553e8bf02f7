// Bindings of the operations on rows: norms, rotary embedding, activations.
#include <cstring>

#include "bind.h"
#include "pagecli/isa.h"
#include "recording.h"
#include "tensors/check.h"

namespace nb = nanobind;

namespace pagecli {

Activation activation_named(const char* name) {
    constexpr struct {
        const char* name;
        Activation kind;
    } kNames[] = {{"none", Activation::none},
                  {"relu", Activation::relu},
                  {"gelu", Activation::gelu},
                  {"gelu_tanh", Activation::gelu_tanh},
                  {"silu", Activation::silu},
                  {"relu2", Activation::relu2}};
    for (const auto& entry : kNames)
        if (std::strcmp(entry.name, name) == 0) return entry.kind;
    refuse("activation: expected none, relu, gelu, gelu_tanh, silu or relu2, got %.40s", name);
}

namespace {

void rms_norm(const TensorView& out, const TensorView& x, const TensorView& weight, float eps, bool accumulate,
              RecordedProgram* program) {
    if (x.ndim == 3) {
        check(x, "x", DType::float32, {"tokens", "heads", "dim"});
        check(out, "out", DType::float32, {x.shape[0], x.shape[1], x.shape[2]});
    } else {
        check(x, "x", DType::float32, {"tokens", "dim"});
        check(out, "out", DType::float32, {x.shape[0], x.shape[1]});
    }
    const bool has_heads = x.ndim == 3;
    const int64_t dim = x.shape[x.ndim - 1];
    check(weight, "weight", DType::float32, {dim});
    const RmsNormArgs args = {out.as<float>(),
                              x.as<const float>(),
                              weight.as<const float>(),
                              {out.stride[0], has_heads ? out.stride[1] : 0},
                              {x.stride[0], has_heads ? x.stride[1] : 0},
                              x.shape[0],
                              has_heads ? x.shape[1] : 1,
                              dim,
                              eps,
                              accumulate};
    perform(args, kernels().rms_norm, program);
}

void layer_norm(const TensorView& out, const TensorView& x, const TensorView& weight, const TensorView& bias, float eps,
                RecordedProgram* program) {
    check(x, "x", DType::float32, {"tokens", "hidden"});
    check(out, "out", DType::float32, {x.shape[0], x.shape[1]});
    check(weight, "weight", DType::float32, {x.shape[1]});
    check(bias, "bias", DType::float32, {x.shape[1]});
    const LayerNormArgs args = {out.as<float>(),
                                x.as<const float>(),
                                weight.as<const float>(),
                                bias.as<const float>(),
                                out.stride[0],
                                x.stride[0],
                                x.shape[0],
                                x.shape[1],
                                eps};
    perform(args, kernels().layer_norm, program);
}

void rotary_embedding(const TensorView& q, const TensorView& k, const TensorView& positions, const TensorView& cos_sin,
                      int64_t first_column, int64_t rotary_dim, RecordedProgram* program) {
    check(q, "q", DType::float32, {"tokens", "heads", "head_dim"});
    check(k, "k", DType::float32, {q.shape[0], "kv_heads", q.shape[2]});
    check(positions, "positions", DType::int32, {q.shape[0]});
    check(cos_sin, "cos_sin", DType::float32, {"positions", "columns"});
    if (rotary_dim == 0) rotary_dim = cos_sin.shape[1];
    if (first_column < 0 || first_column > cos_sin.shape[1] - rotary_dim)
        refuse("first_column: expected 0 to %lld, got %lld", static_cast<long long>(cos_sin.shape[1] - rotary_dim),
               static_cast<long long>(first_column));
    if (rotary_dim < 0 || rotary_dim % 2 != 0 || rotary_dim > q.shape[2])
        refuse("cos_sin: expected an even rotary_dim of at most %lld, got %lld", static_cast<long long>(q.shape[2]),
               static_cast<long long>(rotary_dim));
    check_ids(positions, "positions", cos_sin.shape[0]);
    const RotaryEmbeddingArgs args = {q.as<float>(),
                                      k.as<float>(),
                                      positions.as<const int32_t>(),
                                      cos_sin.as<const float>() + first_column,
                                      {q.stride[0], q.stride[1]},
                                      {k.stride[0], k.stride[1]},
                                      cos_sin.stride[0],
                                      q.shape[0],
                                      q.shape[1],
                                      k.shape[1],
                                      rotary_dim,
                                      first_column};
    if (program != nullptr) return program->add_rotary(args, cos_sin.shape[1]);
    nb::gil_scoped_release release;
    kernels().rotary_embedding(args);
}

void activation(const TensorView& out, const TensorView& x, const char* name, RecordedProgram* program) {
    check(x, "x", DType::float32, {"tokens", "dim"});
    check(out, "out", DType::float32, {x.shape[0], x.shape[1]});
    const ActivationArgs args = {out.as<float>(), x.as<const float>(), out.stride[0],         x.stride[0],
                                 x.shape[0],      x.shape[1],          activation_named(name)};
    perform(args, kernels().activation, program);
}

void gated_activation(const TensorView& out, const TensorView& gate_up, const char* name, float limit, float alpha,
                      RecordedProgram* program) {
    const bool has_groups = out.ndim == 3;
    if (has_groups) {
        check(out, "out", DType::float32, {"tokens", "groups", "dim"});
        check(gate_up, "gate_up", DType::float32, {out.shape[0], out.shape[1], 2 * out.shape[2]});
    } else {
        check(out, "out", DType::float32, {"tokens", "dim"});
        check(gate_up, "gate_up", DType::float32, {out.shape[0], 2 * out.shape[1]});
    }
    const GatedActivationArgs args = {out.as<float>(),
                                      gate_up.as<const float>(),
                                      {out.stride[0], has_groups ? out.stride[1] : 0},
                                      {gate_up.stride[0], has_groups ? gate_up.stride[1] : 0},
                                      out.shape[0],
                                      has_groups ? out.shape[1] : 1,
                                      out.shape[out.ndim - 1],
                                      activation_named(name),
                                      limit,
                                      alpha};
    perform(args, kernels().gated_activation, program);
}

}  // namespace

void bind_rms_norm(nb::module_& module) {
    module.def("rms_norm", rms_norm, nb::arg("out"), nb::arg("x"), nb::arg("weight"), nb::arg("eps"),
               nb::arg("accumulate"), nb::arg("program").none());
}
void bind_layer_norm(nb::module_& module) {
    module.def("layer_norm", layer_norm, nb::arg("out"), nb::arg("x"), nb::arg("weight"), nb::arg("bias"), nb::arg("eps"),
               nb::arg("program").none());
}
void bind_rotary_embedding(nb::module_& module) {
    module.def("rotary_embedding", rotary_embedding, nb::arg("q"), nb::arg("k"), nb::arg("positions"), nb::arg("cos_sin"),
               nb::arg("first_column"), nb::arg("rotary_dim"), nb::arg("program").none());
}
void bind_activation(nb::module_& module) {
    module.def("activation", activation, nb::arg("out"), nb::arg("x"), nb::arg("name"), nb::arg("program").none());
}
void bind_gated_activation(nb::module_& module) {
    module.def("gated_activation", gated_activation, nb::arg("out"), nb::arg("gate_up"), nb::arg("name"),
               nb::arg("limit"), nb::arg("alpha"), nb::arg("program").none());
}

}  // namespace pagecli
