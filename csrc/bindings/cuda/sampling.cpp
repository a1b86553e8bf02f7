// Bindings of the operations that choose tokens. Logits are float32; their rows may begin anywhere, as vocabularies have any size.
#include "bind.h"
#include "device_tensor.h"
#include "pagecli/cuda/sampling/apply_penalties.h"
#include "pagecli/cuda/sampling/argmax.h"
#include "pagecli/cuda/sampling/log_normalizers.h"
#include "pagecli/cuda/sampling/mask_logits.h"
#include "pagecli/cuda/sampling/sample_tokens.h"
#include "pagecli/cuda/sampling/token_logprobs.h"
#include "pagecli/cuda/sampling/top_logits.h"

namespace nb = nanobind;

namespace pagecli {
namespace {

void check_logits(const TensorView& logits, const char* name, int64_t most_cols) {
    check(logits, name, DType::float32, {"rows", "cols"});
    if (logits.shape[1] < 1 || logits.shape[1] > most_cols)
        refuse("%s: expected 1 to %lld columns, got %lld", name, static_cast<long long>(most_cols),
               static_cast<long long>(logits.shape[1]));
}

void argmax(const TensorView& out, const TensorView& x) {
    check_logits(x, "x", INT32_MAX);
    check(out, "out", DType::int64, {x.shape[0]});
    cuda::argmax({out.as<int64_t>(), x.as<const float>(), x.stride[0], x.shape[0], x.shape[1]}, stream_of(x));
}

void sample_tokens(const TensorView& out, const TensorView& logits, const TensorView& rows, const TensorView& temperatures,
                   const TensorView& top_k, const TensorView& top_p, const TensorView& min_p, const TensorView& keys) {
    check_logits(logits, "logits", cuda::kMaxSampledCols);
    check(out, "out", DType::int64, {"draws"});
    const int64_t draws = out.shape[0];
    check(rows, "rows", DType::int32, {draws});
    check(temperatures, "temperatures", DType::float32, {draws});
    check(top_k, "top_k", DType::int32, {draws});
    check(top_p, "top_p", DType::float32, {draws});
    check(min_p, "min_p", DType::float32, {draws});
    check_whole(keys, "keys", DType::int64, {draws, 4});
    cuda::sample_tokens({out.as<int64_t>(), logits.as<const float>(), rows.as<const int32_t>(), temperatures.as<const float>(),
                         top_k.as<const int32_t>(), top_p.as<const float>(), min_p.as<const float>(), keys.as<const uint64_t>(),
                         logits.stride[0], draws, logits.shape[1]},
                        stream_of(logits));
}

void log_normalizers(const TensorView& out, const TensorView& logits, const TensorView& rows, bool subtract) {
    check_logits(logits, "logits", INT32_MAX);
    check(rows, "rows", DType::int32, {"rows"});
    check_whole(out, "out", DType::float32, {rows.shape[0], 2});
    cuda::log_normalizers({out.as<float>(), logits.as<float>(), rows.as<const int32_t>(), logits.stride[0], rows.shape[0],
                           logits.shape[1], subtract},
                          stream_of(logits));
}

void top_logits(const TensorView& ids, const TensorView& values, const TensorView& logits, const TensorView& rows,
                const TensorView& offsets) {
    check_logits(logits, "logits", 1 << 30);
    check(ids, "ids", DType::int32, {"wanted"});
    check(values, "values", DType::float32, {ids.shape[0]});
    check(rows, "rows", DType::int32, {"rows"});
    check(offsets, "offsets", DType::int32, {rows.shape[0] + 1});
    cuda::top_logits({ids.as<int32_t>(), values.as<float>(), logits.as<const float>(), rows.as<const int32_t>(),
                      offsets.as<const int32_t>(), logits.stride[0], rows.shape[0], logits.shape[1]},
                     stream_of(logits));
}

void apply_penalties(const TensorView& logits, const TensorView& rows, const TensorView& penalties, const TensorView& offsets,
                     const TensorView& ids, const TensorView& counts, const TensorView& before, const TensorView& token_ids,
                     const TensorView& last_tokens) {
    check_logits(logits, "logits", INT32_MAX);
    check(rows, "rows", DType::int32, {"rows"});
    const int64_t num_rows = rows.shape[0];
    check_whole(penalties, "penalties", DType::float32, {num_rows, 3});
    check(offsets, "offsets", DType::int32, {num_rows + 1});
    check(ids, "ids", DType::int32, {"entries"});
    check(counts, "counts", DType::int32, {ids.shape[0]});
    check(before, "before", DType::float32, {ids.shape[0]});
    check(token_ids, "token_ids", DType::int32, {"tokens"});
    check(last_tokens, "last_tokens", DType::int32, {num_rows});
    cuda::apply_penalties({logits.as<float>(), rows.as<const int32_t>(), penalties.as<const float>(), offsets.as<const int32_t>(),
                           ids.as<int32_t>(), counts.as<int32_t>(), before.as<float>(), token_ids.as<const int32_t>(),
                           last_tokens.as<const int32_t>(), logits.stride[0], num_rows, logits.shape[1]},
                          stream_of(logits));
}

void mask_logits(const TensorView& logits, const TensorView& rows, const TensorView& masks) {
    check_logits(logits, "logits", INT32_MAX);
    check(rows, "rows", DType::int32, {"rows"});
    check_whole(masks, "masks", DType::int32, {rows.shape[0], (logits.shape[1] + 31) / 32});
    cuda::mask_logits({logits.as<float>(), rows.as<const int32_t>(), masks.as<const uint32_t>(), logits.stride[0], rows.shape[0],
                       logits.shape[1]},
                      stream_of(logits));
}

void forbid_tokens(const TensorView& logits, const TensorView& rows, const TensorView& ids) {
    check_logits(logits, "logits", INT32_MAX);
    check(rows, "rows", DType::int32, {"pairs"});
    check(ids, "ids", DType::int32, {rows.shape[0]});
    cuda::forbid_tokens({logits.as<float>(), rows.as<const int32_t>(), ids.as<const int32_t>(), logits.stride[0], rows.shape[0]},
                        stream_of(logits));
}

void token_logprobs(const TensorView& out, const TensorView& tokens, const TensorView& logits, const TensorView& normalizers,
                    const TensorView& wanted, const TensorView& ids, const TensorView& before) {
    check_logits(logits, "logits", INT32_MAX);
    check(out, "out", DType::float32, {"wanted"});
    check(tokens, "tokens", DType::int64, {"draws"});
    check_whole(normalizers, "normalizers", DType::float32, {"rows", 2});
    check_whole(wanted, "wanted", DType::int32, {out.shape[0], 5});
    check(ids, "ids", DType::int32, {"entries"});
    check(before, "before", DType::float32, {ids.shape[0]});
    cuda::token_logprobs({out.as<float>(), tokens.as<const int64_t>(), logits.as<const float>(), normalizers.as<const float>(),
                          wanted.as<const int32_t>(), ids.as<const int32_t>(), before.as<const float>(), logits.stride[0],
                          out.shape[0]},
                         stream_of(logits));
}

}  // namespace

void bind_argmax(nb::module_& module) { module.def("argmax", argmax); }
void bind_sample_tokens(nb::module_& module) { module.def("sample_tokens", sample_tokens); }
void bind_log_normalizers(nb::module_& module) { module.def("log_normalizers", log_normalizers); }
void bind_top_logits(nb::module_& module) { module.def("top_logits", top_logits); }
void bind_apply_penalties(nb::module_& module) { module.def("apply_penalties", apply_penalties); }
void bind_mask_logits(nb::module_& module) { module.def("mask_logits", mask_logits); }
void bind_forbid_tokens(nb::module_& module) { module.def("forbid_tokens", forbid_tokens); }
void bind_token_logprobs(nb::module_& module) { module.def("token_logprobs", token_logprobs); }

}  // namespace pagecli
