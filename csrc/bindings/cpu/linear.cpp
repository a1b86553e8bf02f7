// Bindings of the operations on packed weights.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>

#include "bind.h"
#include "pagecli/isa.h"
#include "pagecli/linear/quantized_weight.h"
#include "recording.h"
#include "tensors/check.h"

namespace nb = nanobind;

namespace pagecli {
namespace {

// Elements of weight.data: floats, bfloat16, or, of groups, bytes (int8) or 32-bit words (int8-a16).
int64_t packed_elements(int64_t rows, int64_t cols, WeightType type) {
    const int64_t panels = (rows + kPanelWidth - 1) / kPanelWidth;
    const int64_t groups = panels * ((cols + kGroupK - 1) / kGroupK);
    if (type == WeightType::int8) return groups * static_cast<int64_t>(sizeof(RotatedGroup));
    if (type == WeightType::int8_a16) return groups * static_cast<int64_t>(sizeof(PairedGroup) / sizeof(int32_t));
    return panels * kPanelWidth * ((cols + 1) / 2 * 2);
}

int64_t bytes_of(DType dtype) { return dtype == DType::int8 ? 1 : dtype == DType::bfloat16 ? 2 : 4; }

// Of a quantized weight, its header aside.
int64_t quantized_bytes(const QuantizedHeader& header, int64_t rows, int64_t cols) {
    return (rows + kPanelWidth - 1) / kPanelWidth * (cols / header.group) * header.group_bytes();
}

// Whether the numbers are bytes with sign times one power of two, the largest 64 to 127 of it and neither small nor large.
bool is_of_bytes(const float (&table)[16]) {
    float largest = 0.0f;
    for (const float number : table) largest = std::fmax(largest, std::fabs(number));
    if (!(largest >= 0x1p-40f && largest <= 0x1p40f)) return false;
    const float unit = std::ldexp(1.0f, std::ilogb(largest) - 6);
    return std::all_of(std::begin(table), std::end(table), [=](float number) { return std::trunc(number / unit) * unit == number; });
}

// The first of `experts` quantized weights that lie one behind the other, after a header that is all of theirs.
PackedWeightView check_quantized(const TensorView& data, int64_t experts, int64_t rows, int64_t cols) {
    check(data, "weight.data", DType::uint8, {"bytes"});
    const auto* header = data.as<const QuantizedHeader>();
    if (data.shape[0] < static_cast<int64_t>(sizeof *header)) refuse("weight.data: no header of a quantized weight");
    const bool is_known = (header->type == WeightType::float32 || header->type == WeightType::bfloat16) &&
                          ((header->bits >= 2 && header->bits <= 6) || header->bits == 8) &&
                          header->offset >= QuantizedOffset::none && header->offset <= QuantizedOffset::low &&
                          (header->part == 0 || header->part == kRunK / 2 || header->part == kRunK) && header->group >= kRunK &&
                          header->group <= kLargestGroup && (header->group & (header->group - 1)) == 0;
    const bool is_plain = header->offset == QuantizedOffset::none && header->part == 0 && header->center == 0;
    const bool is_known_float = (header->float8 == 0 || (header->float8 == 1 && header->bits == 8 && is_plain)) &&
                                (header->wide == 0 || (header->wide == 1 && is_plain));
    const bool is_known_table = header->bits != 4 || is_of_bytes(header->table);
    if (!is_known || !is_known_float || !is_known_table || cols % header->group != 0)
        refuse("weight.data: a header that says no quantized weight of %lld columns", static_cast<long long>(cols));
    const int64_t expected = static_cast<int64_t>(sizeof *header) + experts * quantized_bytes(*header, rows, cols);
    check(data, "weight.data", DType::uint8, {expected});
    return {header + 1, rows, cols, header->type, header};
}

// Of the first of `experts` weights that lie one behind the other.
PackedWeightView check_experts(const TensorView& data, int64_t experts, int64_t rows, int64_t cols) {
    if (experts < 0 || rows < 0 || cols < 0)
        refuse("weight: expected a shape, got [%lld, %lld]", static_cast<long long>(rows), static_cast<long long>(cols));
    if (data.dtype == DType::uint8) return check_quantized(data, experts, rows, cols);
    const WeightType type = data.dtype == DType::float32    ? WeightType::float32
                            : data.dtype == DType::bfloat16 ? WeightType::bfloat16
                            : data.dtype == DType::int8     ? WeightType::int8
                                                            : WeightType::int8_a16;
    check(data, "weight.data", {DType::float32, DType::bfloat16, DType::int8, DType::int32}, {experts * packed_elements(rows, cols, type)});
    return {data.data, rows, cols, type};
}

PackedWeightView check_weight(const TensorView& data, int64_t rows, int64_t cols) {
    return check_experts(data, 1, rows, cols);
}

void pack_weight(const TensorView& packed, const TensorView& weight) {
    check(weight, "weight", {DType::float32, DType::bfloat16, DType::float16}, {"rows", "cols"});
    const PackedWeightView view = check_experts(packed, 1, weight.shape[0], weight.shape[1]);
    const SourceType source = weight.dtype == DType::float32    ? SourceType::float32
                              : weight.dtype == DType::bfloat16 ? SourceType::bfloat16
                                                                : SourceType::float16;
    const PackWeightArgs args = {packed.data, weight.data, weight.stride[0], view.rows, view.cols, source, view.type};
    nb::gil_scoped_release release;
    kernels().pack_weight(args);
}

// A matrix of a quantized weight's rows, where `given`.
template <class Number>
OfRows<Number> of_rows(const TensorView& tensor, const char* name, DType dtype, int64_t rows, int64_t cols, bool given = true) {
    if (!given) return {nullptr, 0};
    check(tensor, name, dtype, {rows, cols});
    return {tensor.as<const Number>(), tensor.stride[0]};
}

// packed: its header written, of the rest the panels from first_row on, a multiple of 16, to be. offset and factors: None where the header
// says so. Returns whether scales and offsets are finite.
bool pack_quantized(const TensorView& packed, int64_t num_rows, int64_t first_row, const TensorView& q, const TensorView& scale,
                    const TensorView& offset, const TensorView& factor, const TensorView& offset_factor) {
    check(q, "q", DType::uint8, {"rows", "cols"});
    const int64_t rows = q.shape[0], cols = q.shape[1];
    const PackedWeightView view = check_quantized(packed, 1, num_rows, cols);
    if (num_rows < 0 || first_row < 0 || first_row % kPanelWidth != 0 || first_row + rows > num_rows)
        refuse("first_row: expected a panel's first with %lld rows of %lld, got %lld", static_cast<long long>(rows),
               static_cast<long long>(num_rows), static_cast<long long>(first_row));
    const QuantizedHeader& header = *view.quantized;
    const int64_t groups = cols / header.group, parts = header.part == 0 ? 0 : cols / header.part;
    const bool has_offset = header.offset != QuantizedOffset::none, has_factors = header.part != 0, is_wide = header.wide != 0;
    uint8_t* data = const_cast<uint8_t*>(static_cast<const uint8_t*>(view.data));
    bool finite = true;
    const PackQuantizedArgs args = {&header,
                                    data + first_row / kPanelWidth * groups * header.group_bytes(),
                                    of_rows<uint8_t>(q, "q", DType::uint8, rows, cols),
                                    of_rows<uint16_t>(scale, "scale", DType::float16, rows, groups, !is_wide),
                                    of_rows<uint16_t>(offset, "offset", DType::float16, rows, groups, has_offset),
                                    of_rows<float>(scale, "scale", DType::float32, rows, groups, is_wide),
                                    of_rows<uint8_t>(factor, "factor", DType::uint8, rows, parts, has_factors),
                                    of_rows<uint8_t>(offset_factor, "offset_factor", DType::uint8, rows, parts, has_factors && has_offset),
                                    rows,
                                    cols,
                                    &finite};
    nb::gil_scoped_release release;
    kernels().pack_quantized(args);
    return finite;
}

void embedding(const TensorView& out, const TensorView& token_ids, const TensorView& data, int64_t rows, int64_t cols) {
    const PackedWeightView weight = check_weight(data, rows, cols);
    check(token_ids, "token_ids", DType::int32, {"tokens"});
    check(out, "out", DType::float32, {token_ids.shape[0], cols});
    check_ids(token_ids, "token_ids", rows);
    const EmbeddingArgs args = {out.as<float>(), token_ids.as<const int32_t>(), out.stride[0], token_ids.shape[0], weight};
    nb::gil_scoped_release release;
    kernels().embedding(args);
}

// What passes from one product to the next as the next one multiplies it.
void check_handed_over(const TensorView& value, const char* name, const PackedWeightView& weight) {
    const bool is_of_floats = weight.type == WeightType::float32 || weight.type == WeightType::bfloat16;
    if (!is_of_floats || weight.quantized != nullptr) refuse("%s: only products of float32 or bfloat16 hand over", name);
    check_whole(value, name, DType::float32, {value.shape[0], value.shape[1]});
    if (value.shape[1] % 32 != 0) refuse("%s: expected whole 32 columns, got %lld", name, static_cast<long long>(value.shape[1]));
}

void linear(const TensorView& out, const TensorView& x, const TensorView& data, int64_t rows, int64_t cols,
            const TensorView& bias, const char* activation, bool accumulate, RecordedProgram* program, bool hands_over,
            bool x_is_handed_over, bool is_gated) {
    const PackedWeightView weight = check_weight(data, rows, cols);
    check(x, "x", DType::float32, {"tokens", cols});
    check(out, "out", DType::float32, {x.shape[0], is_gated ? rows / 2 : rows});
    if (bias.given()) check(bias, "bias", DType::float32, {rows});
    if (hands_over) check_handed_over(out, "out", weight);
    if (x_is_handed_over) check_handed_over(x, "x", weight);
    if ((hands_over || is_gated) && accumulate) refuse("accumulate: what is handed over or gated is not added to");
    const bool can_gate = std::strcmp(kernels().isa, "amx") == 0 && weight.type == WeightType::bfloat16 && weight.quantized == nullptr;
    if (is_gated && (!can_gate || rows % 64 != 0))
        refuse("is_gated: expected bfloat16, whole 64 rows and amx, got %lld rows and %s", static_cast<long long>(rows), kernels().isa);
    LinearArgs args = {out.as<float>(),
                       x.as<const float>(),
                       bias.as<const float>(),
                       out.stride[0],
                       x.stride[0],
                       x.shape[0],
                       weight,
                       activation_named(activation),
                       accumulate};
    args.hands_over = hands_over;
    args.x_is_handed_over = x_is_handed_over;
    args.is_gated = is_gated;
    perform(args, kernels().linear, program);
}

void grouped_linear(const TensorView& out, const TensorView& x, const TensorView& ids, const TensorView& data, int64_t experts,
                    int64_t rows, int64_t cols, const TensorView& bias, RecordedProgram* program) {
    const PackedWeightView weight = check_experts(data, experts, rows, cols);
    check(ids, "ids", DType::int32, {"tokens", "chosen"});
    const int64_t tokens = ids.shape[0], chosen = ids.shape[1];
    check(out, "out", DType::float32, {tokens, chosen, rows});
    if (tokens > 1 && out.stride[0] != chosen * out.stride[1]) refuse("out: expected a token's rows side by side");
    if (x.ndim == 3)
        check(x, "x", DType::float32, {tokens, chosen, cols});
    else
        check(x, "x", DType::float32, {tokens, cols});
    if (bias.given()) {
        check_whole(bias, "bias", DType::float32, {experts, rows});
    }
    if (program == nullptr)
        for (int64_t t = 0; t < tokens; ++t)
            for (int64_t c = 0; c < chosen; ++c)
                if (const int32_t id = ids.as<const int32_t>()[t * ids.stride[0] + c]; id < 0 || id >= experts)
                    refuse("ids[%lld, %lld]: expected an expert below %lld, got %d", static_cast<long long>(t), static_cast<long long>(c),
                           static_cast<long long>(experts), id);
    const int64_t expert_bytes = weight.quantized != nullptr ? quantized_bytes(*weight.quantized, rows, cols)
                                                             : packed_elements(rows, cols, weight.type) * bytes_of(data.dtype);
    const GroupedLinearArgs args = {out.as<float>(),
                                    x.as<const float>(),
                                    ids.as<const int32_t>(),
                                    bias.as<const float>(),
                                    out.stride[1],
                                    x.stride[0],
                                    x.ndim == 3 ? x.stride[1] : 0,
                                    ids.stride[0],
                                    tokens,
                                    chosen,
                                    experts,
                                    weight,
                                    expert_bytes};
    perform(args, kernels().grouped_linear, program);
}

void check_argmax(const TensorView& out, const TensorView& x, int64_t rows, int64_t cols) {
    check(x, "x", DType::float32, {"tokens", cols});
    check(out, "out", DType::int64, {x.shape[0]});
    if (rows < 1 || rows > int64_t{0xffffffff}) refuse("weight: expected 1 row to 2^32 - 1, got %lld", static_cast<long long>(rows));
}

void linear_argmax(const TensorView& out, const TensorView& x, const TensorView& data, int64_t rows, int64_t cols) {
    const PackedWeightView weight = check_weight(data, rows, cols);
    check_argmax(out, x, rows, cols);
    const LinearArgmaxArgs args = {out.as<int64_t>(), x.as<const float>(), x.stride[0], x.shape[0], weight};
    nb::gil_scoped_release release;
    kernels().linear_argmax(args);
}

// How many panels were computed from the weights.
int64_t pruned_argmax(const TensorView& out, const TensorView& x, const TensorView& data, int64_t rows, int64_t cols,
                      const TensorView& bounds) {
    const PackedWeightView weight = check_weight(data, rows, cols);
    check_argmax(out, x, rows, cols);
    check(bounds, "bounds", DType::int32, {bounds_words(rows, cols)});
    int64_t num_computed = 0;
    const PrunedArgmaxArgs args = {
        out.as<int64_t>(), x.as<const float>(), x.stride[0], x.shape[0], weight, bounds.data, &num_computed};
    nb::gil_scoped_release release;
    kernels().pruned_argmax(args);
    return num_computed;
}

// (rows that the bounds were used for, panels computed from the weights for them)
nb::tuple masked_argmax(const TensorView& out, const TensorView& x, const TensorView& data, int64_t rows, int64_t cols,
                        const TensorView& bounds, const TensorView& words, const TensorView& mask_of) {
    const PackedWeightView weight = check_weight(data, rows, cols);
    check_argmax(out, x, rows, cols);
    if (bounds.given()) check(bounds, "bounds", DType::int32, {bounds_words(rows, cols)});
    check_masks(words, mask_of, x.shape[0], rows);
    int64_t num_bounded = 0, num_computed = 0;
    const MaskedArgmaxArgs args = {out.as<int64_t>(),
                                   x.as<const float>(),
                                   x.stride[0],
                                   x.shape[0],
                                   weight,
                                   bounds.given() ? bounds.data : nullptr,
                                   {words.as<const uint32_t>(), mask_of.as<const int32_t>()},
                                   &num_bounded,
                                   &num_computed};
    {
        nb::gil_scoped_release release;
        kernels().masked_argmax(args);
    }
    return nb::make_tuple(num_bounded, num_computed);
}

// Whether the bounds may be used.
bool pack_bounds(const TensorView& bounds, const TensorView& data, int64_t rows, int64_t cols) {
    const PackedWeightView weight = check_weight(data, rows, cols);
    check(bounds, "bounds", DType::int32, {bounds_words(rows, cols)});
    bool usable = false;
    const PackBoundsArgs args = {bounds.data, weight, &usable};
    nb::gil_scoped_release release;
    kernels().pack_bounds(args);
    return usable;
}

}  // namespace

void bind_pack_weight(nb::module_& module) { module.def("pack_weight", pack_weight); }
void bind_pack_quantized(nb::module_& module) {
    module.def("pack_quantized", pack_quantized, nb::arg("packed"), nb::arg("num_rows"), nb::arg("first_row"), nb::arg("q"),
               nb::arg("scale"), nb::arg("offset").none(), nb::arg("factor").none(), nb::arg("offset_factor").none());
}
void bind_embedding(nb::module_& module) { module.def("embedding", embedding); }
void bind_linear(nb::module_& module) {
    module.def("linear", linear, nb::arg("out"), nb::arg("x"), nb::arg("weight"), nb::arg("rows"), nb::arg("cols"),
               nb::arg("bias").none(), nb::arg("activation"), nb::arg("accumulate"), nb::arg("program").none(), nb::arg("hands_over") = false,
               nb::arg("x_is_handed_over") = false, nb::arg("is_gated") = false);
}
void bind_grouped_linear(nb::module_& module) {
    module.def("grouped_linear", grouped_linear, nb::arg("out"), nb::arg("x"), nb::arg("ids"), nb::arg("weight"), nb::arg("experts"),
               nb::arg("rows"), nb::arg("cols"), nb::arg("bias").none(), nb::arg("program").none());
}
void bind_linear_argmax(nb::module_& module) { module.def("linear_argmax", linear_argmax); }
void bind_pack_bounds(nb::module_& module) { module.def("pack_bounds", pack_bounds); }
void bind_masked_argmax(nb::module_& module) {
    module.def("masked_argmax", masked_argmax, nb::arg("out"), nb::arg("x"), nb::arg("weight"), nb::arg("rows"), nb::arg("cols"),
               nb::arg("bounds").none(), nb::arg("words"), nb::arg("mask_of"));
}
void bind_pruned_argmax(nb::module_& module) { module.def("pruned_argmax", pruned_argmax); }

}  // namespace pagecli
