// Bindings of the operations of a mixture of experts.
#include "bind.h"
#include "device_tensor.h"
#include "pagecli/cuda/experts/combine_experts.h"
#include "pagecli/cuda/experts/exact_linear.h"
#include "pagecli/cuda/experts/grouped_linear.h"
#include "pagecli/cuda/experts/router.h"

namespace nb = nanobind;

namespace pagecli {
namespace {

constexpr int64_t kTileInts = sizeof(cuda::ExpertTile) / 4, kMostTiles = 65535;

void check_range(const char* name, int64_t value, int64_t most) { check_multiple(name, value, 1, most); }

void exact_linear(const TensorView& out, const TensorView& x, const TensorView& weight, const TensorView& bias) {
    const cuda::ElementType type = check_rows(x, "x", {"tokens", "cols"});
    check_multiple("x's last dimension", x.shape[1], 8, INT32_MAX);
    check_rows(weight, "weight", cuda::ElementType::float32, {"rows", x.shape[1]});
    check_contiguous(weight, "weight");
    check(out, "out", DType::float32, {x.shape[0], weight.shape[0]});
    if (bias.given()) check_vector(bias, "bias", weight.shape[0]);
    cuda::exact_linear({out.as<float>(), x.data, weight.as<const float>(), bias.as<const float>(), out.stride[0], x.stride[0],
                        x.shape[0], weight.shape[0], x.shape[1], type},
                       stream_of(x));
}

void router(const TensorView& ids, const TensorView& weights, const TensorView& logits, bool normalize,
            const TensorView& token_ids) {
    check(logits, "logits", DType::float32, {"tokens", "experts"});
    check_range("experts", logits.shape[1], cuda::kMaxExperts);
    check_whole(ids, "ids", DType::int32, {logits.shape[0], "chosen"});
    check_range("chosen", ids.shape[1], logits.shape[1] < cuda::kMaxChosen ? logits.shape[1] : cuda::kMaxChosen);
    check_whole(weights, "weights", DType::float32, {logits.shape[0], ids.shape[1]});
    check(token_ids, "token_ids", DType::int32, {logits.shape[0]});
    cuda::router({ids.as<int32_t>(), weights.as<float>(), logits.as<const float>(), token_ids.as<const int32_t>(),
                  logits.stride[0], logits.shape[0], logits.shape[1], ids.shape[1], normalize},
                 stream_of(logits));
}

// Tiles that any choice of experts fits into: each expert that was chosen begins one, and every tile_rows rows fill one.
int64_t most_expert_tiles(int64_t rows, int64_t experts, int64_t tile_rows) {
    const int64_t begun = rows < experts ? rows : experts;
    return begun + (rows - begun) / tile_rows;
}

void sort_experts(const TensorView& order, const TensorView& tiles, const TensorView& ids, int64_t experts, int64_t tile_rows) {
    check_whole(ids, "ids", DType::int32, {"tokens", "chosen"});
    const int64_t rows = ids.shape[0] * ids.shape[1];
    check_range("experts", experts, cuda::kMaxExperts);
    if (tile_rows != cuda::kFewTileRows && tile_rows != cuda::kManyTileRows)
        refuse("tile_rows: expected %lld or %lld, got %lld", static_cast<long long>(cuda::kFewTileRows),
               static_cast<long long>(cuda::kManyTileRows), static_cast<long long>(tile_rows));
    check(order, "order", DType::int32, {rows});
    check_whole(tiles, "tiles", DType::int32, {most_expert_tiles(rows, experts, tile_rows), kTileInts});
    cuda::sort_experts({order.as<int32_t>(), static_cast<cuda::ExpertTile*>(tiles.data), ids.as<const int32_t>(), rows, experts,
                        tiles.shape[0], tile_rows},
                       stream_of(ids));
}

void grouped_linear(const TensorView& out, const TensorView& x, const TensorView& weight, const TensorView& scales,
                    const TensorView& bias, const TensorView& order, const TensorView& tiles, int64_t tile_rows) {
    const bool narrow = scales.given();
    if (narrow)
        check(weight, "weight", DType::uint8, {"experts", "rows", "cols"});
    else
        check_rows(weight, "weight", {"experts", "rows", "cols"});
    check_contiguous(weight, "weight");
    const int64_t rows = weight.shape[1], cols = weight.shape[2];
    check_multiple("weight's rows", rows, 8, INT32_MAX);
    check_multiple("weight's columns", cols, narrow ? 16 : 8, INT32_MAX);
    if (narrow) check_whole(scales, "scales", DType::float32, {weight.shape[0], rows});
    const cuda::ElementType type =
        narrow ? cuda::ElementType::bfloat16 : check_rows(weight, "weight", {weight.shape[0], rows, cols});
    check_rows(out, "out", type, {"tokens", "chosen", rows});
    check_contiguous(out, "out");
    const int64_t tokens = out.shape[0], chosen = out.shape[1];
    if (x.ndim == 3)
        check_rows(x, "x", type, {tokens, chosen, cols});
    else
        check_rows(x, "x", type, {tokens, cols});
    if (bias.given()) check_whole(bias, "bias", DType::float32, {weight.shape[0], rows});
    check(order, "order", DType::int32, {tokens * chosen});
    check_whole(tiles, "tiles", DType::int32, {"tiles", kTileInts});
    if (tiles.shape[0] > kMostTiles) refuse("tiles: expected at most 65535, got %lld", static_cast<long long>(tiles.shape[0]));
    if (type == cuda::ElementType::float32 && tile_rows != cuda::kFewTileRows) refuse("tile_rows: expected 16 for float32");
    cuda::grouped_linear({out.data, x.data, weight.data, scales.as<const float>(), bias.as<const float>(), order.as<const int32_t>(),
                          static_cast<const cuda::ExpertTile*>(tiles.data), {x.stride[0], head_stride(x)}, chosen, rows, cols,
                          tiles.shape[0], tile_rows, type},
                         stream_of(x));
}

void combine_experts(const TensorView& out, const TensorView& x, const TensorView& weights, const TensorView& shared,
                     const TensorView& gate) {
    check_whole(weights, "weights", DType::float32, {"tokens", "chosen"});
    const int64_t tokens = weights.shape[0], chosen = weights.shape[1];
    const cuda::ElementType type = check_rows(x, "x", {tokens, chosen, "width"});
    check_contiguous(x, "x");
    check_multiple("x's last dimension", x.shape[2], 8, INT32_MAX);
    check_rows(out, "out", type, {tokens, x.shape[2]});
    if (shared.given()) check_rows(shared, "shared", type, {tokens, x.shape[2]});
    if (gate.given()) check(gate, "gate", DType::float32, {tokens, 1});
    cuda::combine_experts({out.data, x.data, weights.as<const float>(), shared.data, gate.as<const float>(), out.stride[0],
                           shared.stride[0], gate.stride[0], tokens, chosen, x.shape[2], type},
                          stream_of(x));
}

}  // namespace

void bind_exact_linear(nb::module_& module) {
    module.def("exact_linear", exact_linear, nb::arg("out"), nb::arg("x"), nb::arg("weight"), nb::arg("bias").none());
}
void bind_router(nb::module_& module) { module.def("router", router); }
void bind_sort_experts(nb::module_& module) {
    module.def("most_expert_tiles", most_expert_tiles);
    module.def("sort_experts", sort_experts);
}
void bind_grouped_linear(nb::module_& module) {
    module.def("grouped_linear", grouped_linear, nb::arg("out"), nb::arg("x"), nb::arg("weight"), nb::arg("scales").none(),
               nb::arg("bias").none(), nb::arg("order"), nb::arg("tiles"), nb::arg("tile_rows"));
}
void bind_combine_experts(nb::module_& module) {
    module.def("combine_experts", combine_experts, nb::arg("out"), nb::arg("x"), nb::arg("weights"), nb::arg("shared").none(),
               nb::arg("gate").none());
}

}  // namespace pagecli
