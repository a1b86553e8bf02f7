// Arguments of drawing tokens on the GPU: temperature, top-k, top-p, min-p and one draw, as devices/cpu/sampler.py defines them.
#pragma once

#include "pagecli/cuda/device.h"
#include "pagecli/sampling/sample.h"

namespace pagecli::cuda {

struct SampleTokensArgs {
    int64_t* out;                        // [draws]; -1 where no token can be chosen: a logit is NaN or +inf, or all are -inf
    const float* logits;                 // [rows, cols]; any alignment
    const int32_t* rows;                 // [draws]: the row each draws from
    const float* temperatures;           // [draws]; below kMinTemperature: the most likely token
    const int32_t* top_k;                // [draws]; 0: all
    const float* top_p;                  // [draws]; 0: the most likely token; 1: all
    const float* min_p;                  // [draws]; 0: all
    const uint64_t* keys;                // [draws, 4]: seed, row key, sample, position of the output token
    int64_t logits_stride, draws, cols;  // cols at most 2^21
};

constexpr int64_t kMaxSampledCols = int64_t{1} << 21;

void sample_tokens(const SampleTokensArgs& args, Stream stream);

}  // namespace pagecli::cuda
