// Arguments of pack_quantized: bring rows of a quantized weight into the layout of quantized_weight.h, once at load.
#pragma once

#include <stdint.h>

namespace pagecli {

struct QuantizedHeader;

// [rows, cols / k], rows `stride` apart; null where there are none.
template <class Number>
struct OfRows {
    const Number* data;
    int64_t stride;

    const Number* row(int64_t index) const { return data + index * stride; }
};

struct PackQuantizedArgs {
    const QuantizedHeader* header;
    void* packed;  // the rows' first panel; written completely
    OfRows<uint8_t> q;  // of each k: without sign, or bytes with sign
    OfRows<uint16_t> scale, offset;            // halves, of each group
    OfRows<float> wide_scale;                  // in place of those
    OfRows<uint8_t> factor, offset_factor;     // of each part
    int64_t rows, cols;
    bool* finite;  // out: whether scales and offsets are, and floats of a size, as the kernels need them (look_up.h)
};

}  // namespace pagecli
