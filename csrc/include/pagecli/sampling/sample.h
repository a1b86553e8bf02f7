// sample: one token drawn from each row of logits after temperature, top-k, top-p and min-p. -1 where no token can be chosen: a
// logit is NaN or +inf, or all are -inf.
#pragma once

#include <stdint.h>

namespace pagecli {

// Temperatures below it choose the likeliest token, the first of equal ones; from it on, 1 / temperature and a difference of
// logits over it are far from the end of float32. The same on every device; core/sampling_params.py has it as MIN_TEMPERATURE.
constexpr float kMinTemperature = 1e-5f;

struct SampleArgs {
    int64_t* out;              // [rows]
    const float* logits;       // [rows, cols], cols in [1, 2^31)
    const float* temperature;  // [rows], from 0 on, finite
    const int64_t* top_k;      // [rows], 0: no limit
    const float* top_p;        // [rows], in [0, 1]; 0: the likeliest token; 1: no limit
    const float* min_p;        // [rows], in [0, 1]; 0: no limit
    const int64_t* draws;      // [rows], in [0, 2^53): the draw from [0, 1), times 2^53
    int64_t logits_stride, rows, cols;
};

}  // namespace pagecli
