// One row out of a packed weight (packed_weight.h), as floats.
#pragma once

#include "isa/matrix_unit.h"
#include "isa/vec.h"
#include "linear/quantized/number_order.h"
#include "pagecli/linear/quantized_weight.h"
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

// Of a quantized panel; rounded as a matrix unit multiplies it.
static inline void gather_row(float* out, const QuantizedHeader& header, const uint8_t* group, int lane, int64_t cols) {
    for (int64_t k = 0; k < cols; k += header.group, group += header.group_bytes()) {
        alignas(64) float scale[kPanelWidth], offset[kPanelWidth] = {};
        const uint16_t* halves = reinterpret_cast<const uint16_t*>(group);
        for (int i = 0; i < kPanelWidth; i += VecF::width) {
            store(scale + i, load_f16(halves + i));
            if (header.offset != QuantizedOffset::none) store(offset + i, load_f16(halves + kPanelWidth + i));
        }
        const float low = header.offset == QuantizedOffset::zero ? -scale[lane] * offset[lane] : offset[lane];
        for (int i = 0; i < header.group; ++i) {
            const uint8_t* run = group + header.scales_bytes() + i / kRunK * header.run_bytes();
            const int at = i % static_cast<int>(kRunK);
            const float q = header.bits == 4 ? header.table[run[byte_of_nibble(at, lane)] >> shift_of_nibble(at) & 15]
                                             : static_cast<float>(static_cast<int8_t>(run[byte_of(at, lane)]));
            const float value = scale[lane] * q + low;
            out[k + i] = PAGECLI_HAS_MATRIX_UNIT && header.type == WeightType::bfloat16 ? widen_bf16(round_to_bf16(value)) : value;
        }
    }
}

// out[weight.cols] = row `row` of the weight.
static inline void gather_row(float* out, const PackedWeightView& weight, int64_t row) {
    if (weight.quantized != nullptr) {
        const QuantizedHeader& header = *weight.quantized;
        const int64_t panel_bytes = weight.cols / header.group * header.group_bytes();
        const uint8_t* panel = static_cast<const uint8_t*>(weight.data) + row / kPanelWidth * panel_bytes;
        return gather_row(out, header, panel, static_cast<int>(row % kPanelWidth), weight.cols);
    }
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
