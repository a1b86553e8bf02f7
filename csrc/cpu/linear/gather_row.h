// One row out of a packed weight (packed_weight.h), as floats.
#pragma once

#include "isa/vec.h"
#include "pagecli/linear/packed_weight.h"

namespace pagecli::PAGECLI_ISA {

// Row `lane` of a panel lies one element (pair) in every 16.
static inline void gather_row(float* out, const float* panel, int lane, int64_t cols) {
    for (int64_t k = 0; k < cols; ++k) out[k] = panel[k * kPanelWidth + lane];
}

static inline void gather_row(float* out, const uint16_t* panel, int lane, int64_t cols) {
    for (int64_t k = 0; k < cols; ++k) out[k] = widen_bf16(panel[(k / 2 * kPanelWidth + lane) * 2 + k % 2]);
}

static inline void gather_row(float* out, const Int8Group* panel, int lane, int64_t cols) {
    for (int64_t k = 0; k < cols; ++k) {
        const Int8Group& group = panel[k / kGroupK];
        out[k] = group.scale[lane] * static_cast<float>(group.q[k % kGroupK / 2][lane][k % 2]);
    }
}

// out[weight.cols] = row `row` of the weight.
static inline void gather_row(float* out, const PackedWeightView& weight, int64_t row) {
    const int64_t cols = weight.cols, panel = row / kPanelWidth, elements = (cols + 1) / 2 * 2 * kPanelWidth;
    const int lane = static_cast<int>(row % kPanelWidth);
    switch (weight.type) {
        case WeightType::float32: return gather_row(out, static_cast<const float*>(weight.data) + panel * elements, lane, cols);
        case WeightType::bfloat16: return gather_row(out, static_cast<const uint16_t*>(weight.data) + panel * elements, lane, cols);
        case WeightType::int8: break;
    }
    gather_row(out, static_cast<const Int8Group*>(weight.data) + panel * ((cols + kGroupK - 1) / kGroupK), lane, cols);
}

}  // namespace pagecli::PAGECLI_ISA
