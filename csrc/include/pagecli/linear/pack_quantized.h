// Arguments of pack_quantized: bring a quantized weight into the layout of quantized_weight.h, once at load.
#pragma once

#include <stdint.h>

namespace pagecli {

struct QuantizedHeader;

struct PackQuantizedArgs {
    const QuantizedHeader* header;
    void* packed;  // what follows the header; written completely
    const uint8_t* q;  // [rows, cols], rows q_stride apart: 0 to 15, or signed bytes
    const uint16_t *scale, *offset;  // halves [rows, cols / group], rows their stride apart; offset null where there is none
    int64_t q_stride, scale_stride, offset_stride;
    int64_t rows, cols;
};

}  // namespace pagecli
