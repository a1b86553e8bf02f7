// Weights of linear layers and embeddings as the matrix kernels read them (N output features, K input features):
//
//   panel 0 holds rows 0..15, panel 1 rows 16..31, ...; N is padded with zeros to whole panels, K to whole pairs
//   float32   data[N/16][K  ][16]       one k, 16 rows side by side
//   bfloat16  data[N/16][K/2][16][2]    two k of a row side by side: what vdpbf16ps eats, and 32 k what tdpbf16ps does
//   int8      data[N/16][K/64] RotatedGroup, K padded to whole groups: rotated weight = scale * q, a scale for 64 k of a row
//   int8_a16  data[N/16][K/64] PairedGroup, the same without rotation: weight = scale * q
#pragma once

#include <stdint.h>

namespace pagecli {

enum class WeightType : int32_t { float32, bfloat16, int8, int8_a16 };

constexpr int64_t kPanelWidth = 16;
constexpr int64_t kGroupK = 64;  // k that share a scale, of weights and of activations

// 64 k of the 16 rows of a panel, multiplied by the normalized Hadamard matrix of order 64 (rotate.h); four k of a row side by side:
// a 32-bit lane for each row, as vpdpbusd takes them, and the whole as tdpbssd does.
struct RotatedGroup {
    float scale[kPanelWidth];               // largest size in the group / 127
    int8_t q[kGroupK / 4][kPanelWidth][4];  // [-127, 127]
};
static_assert(sizeof(RotatedGroup) == 1088, "no padding");

// 64 k of the 16 rows of a panel, two k of a row side by side: widened to 16 bits they are a 32-bit lane for each row.
struct PairedGroup {
    float scale[kPanelWidth];               // largest size in the group / 127
    int8_t q[kGroupK / 2][kPanelWidth][2];  // [-127, 127]
};
static_assert(sizeof(PairedGroup) == sizeof(RotatedGroup), "no padding");

// A view of packed weight[rows, cols].
struct PackedWeightView {
    const void* data;  // padded_rows * padded_cols elements in the layout above
    int64_t rows, cols;
    WeightType type;
    const struct QuantizedHeader* quantized = nullptr;  // of data as quantized_weight.h says, which becomes `type` to be multiplied
};

}  // namespace pagecli
