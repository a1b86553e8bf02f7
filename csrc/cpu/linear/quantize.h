// From floats to small integers with a scale for each group of 64: weights when they are packed, activations before they are
// multiplied.
#pragma once

#include <stdint.h>
#include <string.h>

#include "isa/vec.h"
#include "pagecli/linear/packed_weight.h"

namespace pagecli::PAGECLI_ISA {

// values[64] = about scale * q[64], q in [-limit, limit]; returns the scale. What is not finite makes the scale NaN, all q 0.
PAGECLI_INLINE float quantize_group(int32_t* q, const float* values, float limit) {
    VecF largest = zero(), poison = zero();
    for (int i = 0; i < kGroupK; i += VecF::width) {
        const VecF v = load(values + i);
        largest = max(abs(v), largest);
        poison = fmadd(v, zero(), poison);
    }
    const float size = reduce_max(largest), not_finite = reduce_add(poison);
    if (!(not_finite == 0.0f)) {
        memset(q, 0, sizeof(int32_t) * kGroupK);
        return not_finite;
    }
    const VecF inverse = broadcast(size > 1e-30f ? limit / size : 0.0f);
    for (int i = 0; i < kGroupK; i += VecF::width) {
        const VecF rounded = from_bits(round_to_int(load(values + i) * inverse));
        memcpy(q + i, &rounded, sizeof rounded);
    }
    return size / limit;
}

}  // namespace pagecli::PAGECLI_ISA
