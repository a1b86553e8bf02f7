// Bindings of the operations that choose tokens from logits.
#include "bind.h"
#include "pagecli/isa.h"
#include "tensors/check.h"

namespace nb = nanobind;

namespace pagecli {
namespace {

void argmax(const TensorView& out, const TensorView& x) {
    check(x, "x", DType::float32, {"rows", "cols"});
    check(out, "out", DType::int64, {x.shape[0]});
    check_contiguous(out, "out");
    if (x.shape[1] < 1) refuse("x: expected rows with at least one value, got [%lld, 0]", static_cast<long long>(x.shape[0]));
    const ArgmaxArgs args = {out.as<int64_t>(), x.as<const float>(), x.stride[0], x.shape[0], x.shape[1]};
    nb::gil_scoped_release release;
    kernels().argmax(args);
}

void sample(const TensorView& out, const TensorView& logits, const TensorView& temperature, const TensorView& top_k,
            const TensorView& top_p, const TensorView& min_p, const TensorView& draws) {
    check(logits, "logits", DType::float32, {"rows", "cols"});
    const int64_t rows = logits.shape[0];
    if (logits.shape[1] < 1) refuse("logits: expected rows with at least one value, got [%lld, 0]", static_cast<long long>(rows));
    const auto check_row_values = [rows](const TensorView& view, const char* name, DType dtype) {
        check(view, name, dtype, {rows});
        check_contiguous(view, name);
    };
    check_row_values(out, "out", DType::int64);
    check_row_values(temperature, "temperature", DType::float32);
    check_row_values(top_k, "top_k", DType::int64);
    check_row_values(top_p, "top_p", DType::float32);
    check_row_values(min_p, "min_p", DType::float32);
    check_row_values(draws, "draws", DType::int64);
    const SampleArgs args = {out.as<int64_t>(),         logits.as<const float>(), temperature.as<const float>(),
                             top_k.as<const int64_t>(), top_p.as<const float>(),  min_p.as<const float>(),
                             draws.as<const int64_t>(), logits.stride[0],         rows,
                             logits.shape[1]};
    nb::gil_scoped_release release;
    kernels().sample(args);
}

void restrict_logits(const TensorView& logits, const TensorView& words, const TensorView& mask_of) {
    check(logits, "logits", DType::float32, {"rows", "cols"});
    check_masks(words, mask_of, logits.shape[0], logits.shape[1]);
    const TokenMasks masks = {words.as<const uint32_t>(), mask_of.as<const int32_t>()};
    const RestrictLogitsArgs args = {logits.as<float>(), logits.stride[0], logits.shape[0], logits.shape[1], masks};
    nb::gil_scoped_release release;
    kernels().restrict_logits(args);
}

}  // namespace

void bind_argmax(nb::module_& module) { module.def("argmax", argmax); }
void bind_restrict_logits(nb::module_& module) { module.def("restrict_logits", restrict_logits); }
void bind_sample(nb::module_& module) { module.def("sample", sample); }

}  // namespace pagecli
