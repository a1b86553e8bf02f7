// Weights that stay quantized in memory: 4 or 8 bits each and, for groups of k of a row, a scale.
//
//   QuantizedHeader, then [N/16][K/group] groups of a panel's 16 rows, N padded with zeros to whole panels:
//       scale[16], zero or low[16] where there is one   halves
//       q[group / 32]                                   runs of 32 k of the 16 rows
//
// A row's weight is scale * table[q], scale * (table[q] - zero) or scale * table[q] + low; of 8 bits q stands for itself.
//   4 bits  words[4][16]: of a row's word [i], bits 4 n and up are k = 8 i + 2 (n % 4) + n / 4 of the run: shifted by 4 j, both
//           halves begin with a number, the two k of a pair, which a look-up of 16-bit lanes makes bfloat16
//   8 bits  bytes[16][16][2]: signed, two k of a row side by side
#pragma once

#include <stdint.h>

#include "pagecli/linear/packed_weight.h"

namespace pagecli {

enum class QuantizedOffset : int32_t { none, zero, low };

constexpr int64_t kRunK = 32;  // k of a run: the least group

struct QuantizedHeader {
    WeightType type;  // float32 or bfloat16: how it is multiplied (linear.h)
    int32_t bits;     // 4 or 8
    QuantizedOffset offset;
    int32_t group;  // k: 32, 64 or 128
    int32_t unused[12];
    float table[16];  // of 4 bits; each exact in bfloat16

    int64_t scales_bytes() const { return (offset == QuantizedOffset::none ? 1 : 2) * kPanelWidth * 2; }
    int64_t run_bytes() const { return kRunK * kPanelWidth * bits / 8; }
    // Of a panel.
    int64_t group_bytes() const { return scales_bytes() + group / kRunK * run_bytes(); }
};
static_assert(sizeof(QuantizedHeader) == 128, "whole lines of the cache");

}  // namespace pagecli
