// sample: one token drawn from each row of logits after temperature, top-k, top-p and min-p.
#pragma once

#include <stdint.h>

namespace pagecli {

struct SampleArgs {
    int64_t* out;              // [rows]
    const float* logits;       // [rows, cols], cols in [1, 2^31)
    const float* temperature;  // [rows], above 0
    const int64_t* top_k;      // [rows], 0: no limit
    const float* top_p;        // [rows], in (0, 1]; 1: no limit
    const float* min_p;        // [rows], in [0, 1]; 0: no limit
    const int64_t* draws;      // [rows], in [0, 2^53): the draw from [0, 1), times 2^53
    int64_t logits_stride, rows, cols;
};

}  // namespace pagecli
