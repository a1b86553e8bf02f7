// Bindings of the operations that choose tokens from logits.
#include <algorithm>

#include "bind.h"
#include "pagecli/isa.h"
#include "pagecli/sampling/apply_penalties.h"
#include "tensors/check.h"

namespace nb = nanobind;

namespace pagecli {
namespace {

void argmax(const TensorView& out, const TensorView& x) {
    check(x, "x", DType::float32, {"rows", "cols"});
    check(out, "out", DType::int64, {x.shape[0]});
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
    check(out, "out", DType::int64, {rows});
    check(temperature, "temperature", DType::float32, {rows});
    check(top_k, "top_k", DType::int64, {rows});
    check(top_p, "top_p", DType::float32, {rows});
    check(min_p, "min_p", DType::float32, {rows});
    check(draws, "draws", DType::int64, {rows});
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

// Every known token below `limit`.
void check_known(const TensorView& ids, int64_t limit) {
    for (int64_t n = 0; n < ids.shape[0]; ++n) {
        const int32_t* row = ids.as<const int32_t>() + n * ids.stride[0];
        int32_t most = -1;
        for (int64_t i = 0; i < ids.shape[1]; ++i) most = std::max(most, row[i]);
        if (most >= limit) refuse("ids: expected values below %lld, got %d", static_cast<long long>(limit), most);
    }
}

void bound_penalties(const TensorView& logits, const TensorView& rows, const TensorView& penalties, const TensorView& ids,
                     const TensorView& counts) {
    check(logits, "logits", DType::float32, {"rows", "cols"});
    check(rows, "rows", DType::int64, {"penalized"});
    check_ids(rows, "rows", logits.shape[0]);
    check_whole(penalties, "penalties", DType::float32, {rows.shape[0], 3});
    check(ids, "ids", DType::int32, {rows.shape[0], "known"});
    check(counts, "counts", DType::int32, {rows.shape[0], ids.shape[1]});
    if (counts.stride[0] != ids.stride[0]) refuse("counts: expected rows as far apart as those of ids");
    const ApplyPenaltiesArgs args = {logits.as<float>(),
                                     rows.as<const int64_t>(),
                                     penalties.as<const float>(),
                                     ids.as<const int32_t>(),
                                     counts.as<const int32_t>(),
                                     logits.stride[0],
                                     ids.stride[0],
                                     ids.shape[0],
                                     ids.shape[1]};
    nb::gil_scoped_release release;
    check_known(ids, logits.shape[1]);
    apply_penalties(args);
}

void top_logits(const TensorView& ids, const TensorView& values, const TensorView& normalizers, const TensorView& logits,
                const TensorView& rows) {
    check(logits, "logits", DType::float32, {"rows", "cols"});
    check(rows, "rows", DType::int64, {"wanted"});
    check_ids(rows, "rows", logits.shape[0]);
    const int64_t num = rows.shape[0];
    check_whole(ids, "ids", DType::int64, {num, "count"});
    check_whole(values, "values", DType::float32, {num, ids.shape[1]});
    check_whole(normalizers, "normalizers", DType::float32, {num, 2});
    const int64_t cols = logits.shape[1];
    if (cols < 1 || ids.shape[1] > cols)
        refuse("ids: expected at most the %lld columns there are, got %lld", static_cast<long long>(cols),
               static_cast<long long>(ids.shape[1]));
    const TopLogitsArgs args = {ids.as<int64_t>(),
                                values.as<float>(),
                                normalizers.as<float>(),
                                logits.as<const float>(),
                                rows.as<const int64_t>(),
                                logits.stride[0],
                                cols,
                                num,
                                ids.shape[1]};
    nb::gil_scoped_release release;
    kernels().top_logits(args);
}

}  // namespace

void bind_apply_penalties(nb::module_& module) { module.def("apply_penalties", bound_penalties); }
void bind_argmax(nb::module_& module) { module.def("argmax", argmax); }
void bind_restrict_logits(nb::module_& module) { module.def("restrict_logits", restrict_logits); }
void bind_sample(nb::module_& module) { module.def("sample", sample); }
void bind_top_logits(nb::module_& module) { module.def("top_logits", top_logits); }

}  // namespace pagecli
