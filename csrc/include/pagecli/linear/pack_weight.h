// Arguments of pack_weight: bring a weight into the layout of packed_weight.h, once at load.
#pragma once

#include <stdint.h>

#include "pagecli/linear/packed_weight.h"

namespace pagecli {

enum class SourceType : int32_t { float32, bfloat16, float16 };

struct PackWeightArgs {
    void* packed;        // as packed_weight.h says; written completely, padding too
    const void* weight;  // [rows, cols] of source_type, rows weight_stride elements apart; may be read-only mapped memory
    int64_t weight_stride;
    int64_t rows, cols;
    SourceType source_type;
    WeightType packed_type;
};

}  // namespace pagecli
