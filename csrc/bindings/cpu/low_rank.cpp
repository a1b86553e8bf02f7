// Binding of low_rank.
#include "bind.h"
#include "pagecli/isa.h"
#include "recording.h"
#include "tensors/check.h"

namespace nb = nanobind;

namespace pagecli {
namespace {

// starts[adapters + 1] goes from 0 to the number of ranks and never down; returns the number of adapters.
int64_t check_starts(const TensorView& starts, int64_t ranks) {
    check(starts, "starts", DType::int32, {"adapters + 1"});
    const int32_t* of_adapter = starts.as<const int32_t>();
    const int64_t adapters = starts.shape[0] - 1;
    if (adapters < 0 || of_adapter[0] != 0 || of_adapter[adapters] != ranks)
        refuse("starts: expected numbers from 0 to %lld", static_cast<long long>(ranks));
    for (int64_t i = 0; i < adapters; ++i)
        if (of_adapter[i] > of_adapter[i + 1]) refuse("starts: expected numbers that never fall");
    return adapters;
}

void low_rank(const TensorView& out, const TensorView& x, const TensorView& a, const TensorView& b, const TensorView& starts,
              const TensorView& adapter_ids, RecordedProgram* program) {
    check(x, "x", DType::float32, {"tokens", "k"});
    check(out, "out", DType::float32, {x.shape[0], "n"});
    check(a, "a", DType::float32, {"ranks", x.shape[1]});
    check(b, "b", DType::float32, {a.shape[0], out.shape[1]});
    check_contiguous(a, "a");
    check_contiguous(b, "b");
    const int64_t adapters = check_starts(starts, a.shape[0]);
    if (adapter_ids.given()) {
        check(adapter_ids, "adapter_ids", DType::int32, {x.shape[0]});
        check_adapter_ids(adapter_ids, adapters);
    }
    const LowRankArgs args = {out.as<float>(),
                              x.as<const float>(),
                              a.as<const float>(),
                              b.as<const float>(),
                              starts.as<const int32_t>(),
                              adapter_ids.given() ? adapter_ids.as<const int32_t>() : nullptr,
                              out.stride[0],
                              x.stride[0],
                              x.shape[0],
                              out.shape[1],
                              x.shape[1]};
    if (program != nullptr) return program->add_low_rank(args, adapters);
    nb::gil_scoped_release release;
    kernels().low_rank(args);
}

}  // namespace

void bind_low_rank(nb::module_& module) {
    module.def("low_rank", low_rank, nb::arg("out"), nb::arg("x"), nb::arg("a"), nb::arg("b"), nb::arg("starts"),
               nb::arg("adapter_ids").none(), nb::arg("program").none());
}

}  // namespace pagecli
