// Weights of linear layers and embeddings as the matrix kernels read them (N output features, K input features):
//
//   panel 0 holds rows 0..15, panel 1 rows 16..31, ...; N is padded with zeros to whole panels, K to whole pairs
//   float32   data[N/16][K  ][16]       one k, 16 rows side by side
//   bfloat16  data[N/16][K/2][16][2]    two k of a row side by side: what vdpbf16ps eats
#pragma once

#include <stdint.h>

namespace pagecli {

enum class WeightType : int32_t { float32, bfloat16 };

constexpr int64_t kPanelWidth = 16;

// A view of packed weight[rows, cols].
struct PackedWeightView {
    const void* data;  // padded_rows * padded_cols elements in the layout above
    int64_t rows, cols;
    WeightType type;
};

}  // namespace pagecli
