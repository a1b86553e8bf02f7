// Quantized upper bounds: an LM head's weights once more, in 7 bits, and how far from the weights they are. pruned_argmax computes
// with them which outputs could be the largest of their row, and computes only those from the weights: the tokens are the same, for
// half of the instructions (AVX2) and a quarter to a half of the bytes.
//
//   words[N/16][K/4][16]   32-bit words: four k of a row, bytes 64 + q with q in [-63, 63]; K padded to whole groups of 64 with 64
//   scale[N], norm[N], error[N]   floats, N padded to whole panels; see BoundsView
#pragma once

#include <stdint.h>

#include "pagecli/linear/packed_weight.h"

namespace pagecli {

constexpr float kBoundsLimit = 63.0f;  // the largest |q|
constexpr int32_t kBoundsZero = 64;    // the byte that stands for q = 0: products of bytes want one factor without sign

constexpr int64_t bounds_cols(int64_t cols) { return (cols + kGroupK - 1) / kGroupK * kGroupK; }
constexpr int64_t bounds_panels(int64_t rows) { return (rows + kPanelWidth - 1) / kPanelWidth; }
// 32-bit words of the bounds of weight[rows, cols].
constexpr int64_t bounds_words(int64_t rows, int64_t cols) {
    return bounds_panels(rows) * kPanelWidth * (bounds_cols(cols) / 4 + 3);
}

// A weight's row w is about scale * q; norm is |scale * q|, error |w - scale * q| (lengths of vectors, rounded up).
struct BoundsView {
    const uint8_t* bytes;
    const float *scale, *norm, *error;

    BoundsView(const void* words, int64_t rows, int64_t cols)
        : bytes(static_cast<const uint8_t*>(words)),
          scale(reinterpret_cast<const float*>(bytes + bounds_panels(rows) * kPanelWidth * bounds_cols(cols))),
          norm(scale + bounds_panels(rows) * kPanelWidth),
          error(norm + bounds_panels(rows) * kPanelWidth) {}
};

// What a call knows of its rows of x and keeps of every panel: no sum of row r with a weight of panel p is above upper[r][p].
struct UpperBounds {
    BoundsView quantized;
    const float *of_norm, *of_error;  // [tokens]: a sum exceeds the quantized one by at most of_norm * norm + of_error * error
    float* upper;                     // [tokens, num_panels]
    int64_t* likeliest;               // [tokens]: keys of the panel with the largest quantized sum
    int64_t num_panels;
};

}  // namespace pagecli
