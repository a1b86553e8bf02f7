// Bindings of the operations that choose tokens.
#include "bind.h"
#include "device_tensor.h"
#include "pagecli/cuda/argmax.h"

namespace nb = nanobind;

namespace pagecli {
namespace {

void argmax(const TensorView& out, const TensorView& x) {
    check(x, "x", {DType::float32, DType::bfloat16, DType::float16}, {"rows", "cols"});
    check(out, "out", DType::int64, {x.shape[0]});
    check_contiguous(out, "out");
    if (x.shape[1] < 1 || x.shape[1] > INT32_MAX)
        refuse("x: expected rows of at least one value, got [%lld, %lld]", static_cast<long long>(x.shape[0]),
               static_cast<long long>(x.shape[1]));
    const cuda::ElementType type = x.dtype == DType::float32    ? cuda::ElementType::float32
                                   : x.dtype == DType::bfloat16 ? cuda::ElementType::bfloat16
                                                                : cuda::ElementType::float16;
    cuda::argmax({out.as<int64_t>(), x.data, x.stride[0], x.shape[0], x.shape[1], type}, stream_of(x));
}

}  // namespace

void bind_cuda_sampling(nb::module_& module) { module.def("argmax", argmax); }

}  // namespace pagecli
