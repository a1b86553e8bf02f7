// What the numbers of a group of quantized weights are multiplied by, and what is added: a lane for each row.
#pragma once

#include "isa/vec.h"
#include "pagecli/linear/quantized_weight.h"

namespace pagecli::PAGECLI_ISA {

struct GroupScale {
    VecF scale, low;
};

// Of the rows from `lane` on. Both factors have 11 bits: their product is exact.
PAGECLI_INLINE GroupScale load_scale(const uint8_t* group, int lane, QuantizedOffset offset) {
    const uint16_t* halves = reinterpret_cast<const uint16_t*>(group) + lane;
    const VecF scale = load_f16(halves);
    if (offset == QuantizedOffset::none) return {scale, zero()};
    const VecF second = load_f16(halves + kPanelWidth);
    return {scale, offset == QuantizedOffset::low ? second : zero() - scale * second};
}

}  // namespace pagecli::PAGECLI_ISA
