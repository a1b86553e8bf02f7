// Bindings of the operations of a mixture of experts that are not linear layers.
#include "bind.h"
#include "pagecli/isa.h"
#include "recording.h"
#include "tensors/check.h"

namespace nb = nanobind;

namespace pagecli {
namespace {

void router(const TensorView& ids, const TensorView& weights, const TensorView& logits, bool normalize, RecordedProgram* program) {
    check(logits, "logits", DType::float32, {"tokens", "experts"});
    check(ids, "ids", DType::int32, {logits.shape[0], "chosen"});
    check(weights, "weights", DType::float32, {logits.shape[0], ids.shape[1]});
    if (ids.shape[1] < 1 || ids.shape[1] > logits.shape[1])
        refuse("ids: expected 1 to %lld experts a token, got %lld", static_cast<long long>(logits.shape[1]),
               static_cast<long long>(ids.shape[1]));
    const RouterArgs args = {ids.as<int32_t>(), weights.as<float>(), logits.as<const float>(), ids.stride[0], weights.stride[0],
                             logits.stride[0],  logits.shape[0],     logits.shape[1],          ids.shape[1],  normalize};
    perform(args, kernels().router, program);
}

void combine_experts(const TensorView& out, const TensorView& x, const TensorView& weights, const TensorView& shared,
                     const TensorView& gate, bool accumulate, RecordedProgram* program) {
    check(weights, "weights", DType::float32, {"tokens", "chosen"});
    check(x, "x", DType::float32, {weights.shape[0], weights.shape[1], "width"});
    const int64_t tokens = x.shape[0], chosen = x.shape[1], width = x.shape[2];
    if (chosen < 1) refuse("weights: expected 1 expert a token or more, got 0");
    if (chosen > 1 && x.stride[1] != width) refuse("x: expected a token's rows side by side");
    check(out, "out", DType::float32, {tokens, width});
    if (shared.given()) check(shared, "shared", DType::float32, {tokens, width});
    if (gate.given()) check(gate, "gate", DType::float32, {tokens, 1});
    const CombineExpertsArgs args = {out.as<float>(),
                                     x.as<const float>(),
                                     weights.as<const float>(),
                                     shared.as<const float>(),
                                     gate.as<const float>(),
                                     out.stride[0],
                                     x.stride[0],
                                     weights.stride[0],
                                     shared.stride[0],
                                     gate.stride[0],
                                     tokens,
                                     chosen,
                                     width,
                                     accumulate};
    perform(args, kernels().combine_experts, program);
}

}  // namespace

void bind_router(nb::module_& module) {
    module.def("router", router, nb::arg("ids"), nb::arg("weights"), nb::arg("logits"), nb::arg("normalize"),
               nb::arg("program").none());
}
void bind_combine_experts(nb::module_& module) {
    module.def("combine_experts", combine_experts, nb::arg("out"), nb::arg("x"), nb::arg("weights"), nb::arg("shared").none(),
               nb::arg("gate").none(), nb::arg("accumulate"), nb::arg("program").none());
}

}  // namespace pagecli
