// Arguments of what turns logits into log probabilities on the GPU.
#pragma once

#include "pagecli/cuda/device.h"

namespace pagecli::cuda {

struct LogNormalizersArgs {
    float* out;           // [rows, 2]: the largest logit, log(sum of exp(logit - largest)); a log probability is logit less both
    float* logits;        // [.., cols]; any alignment
    const int32_t* rows;  // [rows]: of the logits, each once
    int64_t logits_stride, num_rows, cols;
    bool subtract;  // the rows become log probabilities
};

void log_normalizers(const LogNormalizersArgs& args, Stream stream);

}  // namespace pagecli::cuda
