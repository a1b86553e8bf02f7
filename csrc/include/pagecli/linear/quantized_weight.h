// Weights that stay quantized in memory: 2 to 6 or 8 bits each and, for groups of k of a row, a scale.
//
//   QuantizedHeader, then [N/16][K/group] groups of a panel's 16 rows, N padded with zeros to whole panels:
//       scale[16], zero or low[16] where there is one   halves; scales may be floats where they are all there is
//       runs[group / 32]                                32 k of the 16 rows each:
//           factor[32 / part][16], and of low[32 / part][16]    bytes with sign, where parts of a group have their own
//           q                                                   as below
//
// A row's weight is scale * q, scale * (q - zero) or scale * q + low, scale and low times their part's factors. q is a number of 8 bits
// with sign, table[n] of 4 bits, n - center of others: n's bits lie in planes of 4, 2 or 1 (planes_of), a plane of b bits being words[b][16],
// 32 bits each: of a row's word [i], bits b * j and up are the even k of pair 16 / b * i + j, and 16 bits higher the odd k.
//   8 bits  bytes[16][16][2]: two k of a row side by side; of float8 (e4m3, no NaN) bytes[32][16]: a k of each row
#pragma once

#include <stdint.h>

#include "pagecli/linear/packed_weight.h"

namespace pagecli {

enum class QuantizedOffset : int32_t { none, zero, low };

constexpr int64_t kRunK = 32;  // k of a run: the least group
constexpr int64_t kLargestGroup = 256;
constexpr int kFloat8 = 9;  // stands for numbers of float8 where others are known by their bits

struct QuantizedHeader {
    WeightType type;  // float32 or bfloat16: what the weights are, rounded to it, where they are multiplied
    int32_t bits;     // 2, 3, 4, 5, 6 or 8
    QuantizedOffset offset;
    int32_t group;   // k: 32, 64, 128 or 256
    int32_t part;    // k that share a factor: 16 or 32; 0: no factors
    int32_t center;  // of 2, 3, 5 and 6 bits
    int32_t float8;  // 1: numbers of 8 bits are float8
    int32_t wide;    // 1: scales are floats; no offset, part and center then
    int32_t unused[8];
    float table[16];  // of 4 bits: bytes with sign times one power of two, the largest of 2^-40 to 2^40

    int64_t num_factors() const { return part == 0 ? 0 : kRunK / part; }  // of a run and a row
    int numbers() const { return float8 != 0 ? kFloat8 : bits; }
    int64_t scales_bytes() const { return (offset == QuantizedOffset::none ? 1 : 2) * kPanelWidth * (wide != 0 ? 4 : 2); }
    int64_t factors_bytes() const { return (offset == QuantizedOffset::none ? 1 : 2) * num_factors() * kPanelWidth; }
    int64_t run_bytes() const { return factors_bytes() + kRunK * kPanelWidth * bits / 8; }
    // Of a panel.
    int64_t group_bytes() const { return scales_bytes() + group / kRunK * run_bytes(); }
};
static_assert(sizeof(QuantizedHeader) == 128, "whole lines of the cache");

}  // namespace pagecli
