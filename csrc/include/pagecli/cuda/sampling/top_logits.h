// Arguments of finding the largest logits of rows on the GPU: log probabilities and beams' candidates.
#pragma once

#include "pagecli/cuda/device.h"

namespace pagecli::cuda {

struct TopLogitsArgs {
    int32_t* ids;            // [total]: of row i, offsets[i] on, its largest, the first of equal ones; in the order of ids
    float* values;           // [total]
    const float* logits;     // [.., cols], cols up to 2^30; NaN counts as -inf; any alignment
    const int32_t* rows;     // [rows]: of the logits
    const int32_t* offsets;  // [rows + 1]: how many of each, up to cols
    int64_t logits_stride, num_rows, cols;
};

void top_logits(const TopLogitsArgs& args, Stream stream);

}  // namespace pagecli::cuda
