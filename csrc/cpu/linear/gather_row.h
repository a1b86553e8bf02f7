// One row out of a packed weight (packed_weight.h), as floats.
#pragma once

#include "isa/vec.h"
#include "linear/quantized/numbers.h"
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

// The number of k of a run of row `lane`.
static inline float number_of(const QuantizedHeader& header, const uint8_t* q, int k, int lane) {
    const int pair = k / 2;
    if (header.float8 != 0) {
        const int code = q[k * kPanelWidth + lane], exponent = code >> 3 & 15, fraction = code & 7;
        const int size = exponent == 0 ? fraction : (8 + fraction) << (exponent - 1);
        return static_cast<float>(code < 128 ? size : -size) * 0x1p-9f;
    }
    if (header.bits == 8) return static_cast<float>(static_cast<int8_t>(q[(pair * kPanelWidth + lane) * 2 + k % 2]));
    int32_t number = 0;
    for (int bits, up = 0; up < header.bits; up += bits) {
        bits = up == 0 ? first_plane(header.bits) : header.bits - up;
        uint32_t word;
        memcpy(&word, q + (word_of(bits, pair) * kPanelWidth + lane) * 4, sizeof word);
        number |= static_cast<int32_t>(word >> (shift_of(bits, pair) + k % 2 * 16) & ((1u << bits) - 1)) << up;
        q += bits * kPanelWidth * 4;
    }
    return header.bits == 4 ? header.table[number] : static_cast<float>(number);
}

// Of a quantized panel, rounded as it is multiplied.
static inline void gather_row(float* out, const QuantizedHeader& header, const uint8_t* group, int lane, int64_t cols) {
    for (int64_t first = 0; first < cols; first += header.group, group += header.group_bytes()) {
        const uint8_t* run = group + header.scales_bytes();
        for (int64_t k = first; k < first + header.group; k += kRunK, run += header.run_bytes()) {
            alignas(64) float scale[2][kPanelWidth], low[2][kPanelWidth];
            for (int part = 0; part < 2; ++part) {
                for (int i = 0; i < kPanelWidth; i += VecF::width) {
                    const RunScale by = scale_of(header, group, run, header.part == kRunK / 2 ? part : 0, i);
                    store(scale[part] + i, by.scale);
                    store(low[part] + i, by.low);
                }
            }
            for (int i = 0; i < kRunK; ++i) {
                const int part = i / (static_cast<int>(kRunK) / 2);
                const float number = number_of(header, run + header.factors_bytes(), i, lane);
                const float value = scale[part][lane] * number + low[part][lane];
                out[k + i] = header.type == WeightType::bfloat16 ? widen_bf16(round_to_bf16(value)) : value;
            }
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
