// Bindings of the operations that choose tokens.
#include "bind.h"
#include "device_tensor.h"
#include "pagecli/cuda/sampling/argmax.h"
#include "pagecli/cuda/sampling/sample_tokens.h"

namespace nb = nanobind;

namespace pagecli {
namespace {

// Rows may begin anywhere: vocabularies have any size.
cuda::ElementType check_logits(const TensorView& x, const char* name) {
    check(x, name, {DType::float32, DType::bfloat16, DType::float16}, {"rows", "cols"});
    if (x.dtype == DType::float32) return cuda::ElementType::float32;
    return x.dtype == DType::bfloat16 ? cuda::ElementType::bfloat16 : cuda::ElementType::float16;
}

void argmax(const TensorView& out, const TensorView& x) {
    const cuda::ElementType type = check_logits(x, "x");
    check(out, "out", DType::int64, {x.shape[0]});
    check_contiguous(out, "out");
    if (x.shape[1] < 1 || x.shape[1] > INT32_MAX)
        refuse("x: expected rows of at least one value, got [%lld, %lld]", static_cast<long long>(x.shape[0]),
               static_cast<long long>(x.shape[1]));
    cuda::argmax({out.as<int64_t>(), x.data, x.stride[0], x.shape[0], x.shape[1], type}, stream_of(x));
}

void sample_tokens(const TensorView& out, const TensorView& logits, const TensorView& rows, const TensorView& temperatures,
                   const TensorView& top_k, const TensorView& top_p, const TensorView& min_p, const TensorView& keys) {
    const cuda::ElementType type = check_logits(logits, "logits");
    check(out, "out", DType::int64, {"draws"});
    check_contiguous(out, "out");
    const int64_t draws = out.shape[0];
    check(rows, "rows", DType::int32, {draws});
    check(temperatures, "temperatures", DType::float32, {draws});
    check(top_k, "top_k", DType::int32, {draws});
    check(top_p, "top_p", DType::float32, {draws});
    check(min_p, "min_p", DType::float32, {draws});
    check(keys, "keys", DType::int64, {draws, 4});
    check_contiguous(keys, "keys");
    if (logits.shape[1] < 1 || logits.shape[1] > cuda::kMaxSampledCols)
        refuse("logits: expected 1 to %lld columns, got %lld", static_cast<long long>(cuda::kMaxSampledCols),
               static_cast<long long>(logits.shape[1]));
    cuda::sample_tokens({out.as<int64_t>(), logits.data, rows.as<const int32_t>(), temperatures.as<const float>(),
                         top_k.as<const int32_t>(), top_p.as<const float>(), min_p.as<const float>(), keys.as<const uint64_t>(),
                         logits.stride[0], draws, logits.shape[1], type},
                        stream_of(logits));
}

}  // namespace

void bind_argmax(nb::module_& module) { module.def("argmax", argmax); }
void bind_sample_tokens(nb::module_& module) { module.def("sample_tokens", sample_tokens); }

}  // namespace pagecli
