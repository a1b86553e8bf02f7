// One row out of a packed weight (packed_weight.h), as floats.
#pragma once

#include "isa/vec.h"
#include "pagecli/linear/packed_weight.h"
#include "rotate.h"

namespace pagecli::PAGECLI_ISA {

// Row `lane` of a panel lies one element (pair) in every 16.
static inline void gather_row(float* out, const float* panel, int lane, int64_t cols) {
    for (int64_t k = 0; k < cols; ++k) out[k] = panel[k * kPanelWidth + lane];
}

static inline void gather_row(float* out, const uint16_t* panel, int lane, int64_t cols) {
    for (int64_t k = 0; k < cols; ++k) out[k] = widen_bf16(panel[(k / 2 * kPanelWidth + lane) * 2 + k % 2]);
}

static inline void gather_row(float* out, const PairedGroup* panel, int lane, int64_t cols) {
    for (int64_t k = 0; k < cols; ++k) {
        const PairedGroup& group = panel[k / kGroupK];
        out[k] = group.scale[lane] * static_cast<float>(group.q[k % kGroupK / 2][lane][k % 2]);
    }
}

static inline void gather_row(float* out, const RotatedGroup* group, int lane, int64_t cols) {
    for (int64_t k = 0; k < cols; k += kGroupK, ++group) {
        alignas(64) float values[kGroupK];
        const float scale = group->scale[lane] * kRotationScale;
        for (int i = 0; i < kGroupK; ++i) values[i] = scale * static_cast<float>(group->q[i / 4][lane][i % 4]);
        rotate_group(values);  // the normalized matrix is its own inverse
        memcpy(out + k, values, static_cast<size_t>(cols - k < kGroupK ? cols - k : kGroupK) * sizeof(float));
    }
}

// out[weight.cols] = row `row` of the weight.
static inline void gather_row(float* out, const PackedWeightView& weight, int64_t row) {
    const int64_t cols = weight.cols, panel = row / kPanelWidth, elements = (cols + 1) / 2 * 2 * kPanelWidth;
    const int64_t first_group = panel * ((cols + kGroupK - 1) / kGroupK);
    const int lane = static_cast<int>(row % kPanelWidth);
    switch (weight.type) {
        case WeightType::float32: return gather_row(out, static_cast<const float*>(weight.data) + panel * elements, lane, cols);
        case WeightType::bfloat16: return gather_row(out, static_cast<const uint16_t*>(weight.data) + panel * elements, lane, cols);
        case WeightType::int8: return gather_row(out, static_cast<const RotatedGroup*>(weight.data) + first_group, lane, cols);
        case WeightType::int8_a16: break;
    }
    gather_row(out, static_cast<const PairedGroup*>(weight.data) + first_group, lane, cols);
}

}  // namespace pagecli::PAGECLI_ISA
