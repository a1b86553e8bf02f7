// linear and pack_weight compiled for instructions that are emulated (emulated_kernels.py says which), behind a C interface.
#include "pagecli/linear/grouped_linear.h"
#include "pagecli/linear/linear.h"
#include "pagecli/linear/pack_bounds.h"
#include "pagecli/linear/pack_weight.h"
#include "pagecli/linear/pruned_argmax.h"
#include "pagecli/linear/quantized_weight.h"
#include "pagecli/pair_products.h"

namespace pagecli::emulated {
void linear(const LinearArgs&);
void grouped_linear(const GroupedLinearArgs&);
void pack_weight(const PackWeightArgs&);
void pack_bounds(const PackBoundsArgs&);
void pruned_argmax(const PrunedArgmaxArgs&);
}  // namespace pagecli::emulated

extern "C" void emulated_widen(bool widened) { pagecli::widen_pairs(widened); }

// weight[rows, cols] in float32 is packed into `packed` as `type`; out[tokens, rows] = x[tokens, cols] @ weight^T.
extern "C" void emulated_linear(float* out, const float* x, const float* weight, void* packed, int64_t tokens, int64_t rows,
                                int64_t cols, int32_t type) {
    using namespace pagecli;
    const WeightType weight_type = static_cast<WeightType>(type);
    emulated::pack_weight({packed, weight, cols, rows, cols, SourceType::float32, weight_type});
    const PackedWeightView view = {packed, rows, cols, weight_type};
    emulated::linear({out, x, nullptr, rows, cols, tokens, view, Activation::none, false});
}

// out[tokens, rows] = (x[tokens, cols] @ first[first_rows, cols]^T) @ second[rows, between]^T of bfloat16 weights, `values` of [tokens,
// between] handed over; where first_rows are twice as many, gated: the first half of the first sums times the second.
extern "C" void emulated_handed_over(float* out, float* values, const float* x, const float* first, const float* second, void* packed,
                                     int64_t tokens, int64_t rows, int64_t between, int64_t cols, int64_t first_rows) {
    using namespace pagecli;
    const auto type = WeightType::bfloat16;
    emulated::pack_weight({packed, first, cols, first_rows, cols, SourceType::float32, type});
    LinearArgs args = {values, x, nullptr, between, cols, tokens, {packed, first_rows, cols, type}, Activation::none, false};
    args.hands_over = true;
    args.is_gated = first_rows == 2 * between;
    emulated::linear(args);
    emulated::pack_weight({packed, second, between, rows, between, SourceType::float32, type});
    args = {out, values, nullptr, rows, between, tokens, {packed, rows, between, type}, Activation::none, false};
    args.x_is_handed_over = true;
    emulated::linear(args);
}

// out[tokens, chosen, rows] = x[tokens, cols] @ weight[ids[tokens, chosen], rows, cols]^T, `expert_bytes` of `packed` for each.
extern "C" void emulated_grouped(float* out, const float* x, const int32_t* ids, const float* weight, char* packed,
                                 int64_t expert_bytes, int64_t tokens, int64_t chosen, int64_t experts, int64_t rows, int64_t cols,
                                 int32_t type) {
    using namespace pagecli;
    const WeightType weight_type = static_cast<WeightType>(type);
    for (int64_t e = 0; e < experts; ++e)
        emulated::pack_weight({packed + e * expert_bytes, weight + e * rows * cols, cols, rows, cols, SourceType::float32, weight_type});
    const PackedWeightView view = {packed, rows, cols, weight_type};
    emulated::grouped_linear({out, x, ids, nullptr, rows, cols, 0, chosen, tokens, chosen, experts, view, expert_bytes});
}

// out[tokens, rows] = x[tokens, cols] @ weight^T, of a packed quantized weight.
extern "C" void emulated_quantized(float* out, const float* x, const void* packed, int64_t tokens, int64_t rows, int64_t cols) {
    using namespace pagecli;
    const auto* header = static_cast<const QuantizedHeader*>(packed);
    const PackedWeightView view = {header + 1, rows, cols, header->type, header};
    emulated::linear({out, x, nullptr, rows, cols, tokens, view, Activation::none, false});
}

// out[tokens] = where each row of what emulated_linear computes of bfloat16 weights is largest, by bounds made in `bounds`;
// returns how many panels were computed from the weights.
extern "C" int64_t emulated_pruned(int64_t* out, const float* x, const void* packed, void* bounds, int64_t tokens, int64_t rows,
                                     int64_t cols) {
    using namespace pagecli;
    const PackedWeightView view = {packed, rows, cols, WeightType::bfloat16};
    bool usable = false;
    int64_t num_computed = -1;
    emulated::pack_bounds({bounds, view, &usable});
    if (usable) emulated::pruned_argmax({out, x, cols, tokens, view, bounds, &num_computed});
    return num_computed;
}
