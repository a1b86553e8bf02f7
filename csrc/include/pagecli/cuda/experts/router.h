// Arguments of a router on the GPU: which experts a token goes to, and how much each counts.
#pragma once

#include "pagecli/cuda/device.h"

namespace pagecli::cuda {

// ids[t] = the experts of the largest of logits[t], of equal ones the first; weights[t] = softmax(logits[t])[ids[t]], divided
// by their sum if `normalize`. A row with a NaN has weights of NaN. Of a token that is none: ids and weights of -1.
struct RouterArgs {
    int32_t* ids;              // [tokens, chosen], one row after another
    float* weights;            // [tokens, chosen], one row after another
    const float* logits;       // [tokens, experts]
    const int32_t* token_ids;  // [tokens], negative: a padding row
    int64_t logits_stride;
    int64_t tokens, experts, chosen;
    bool normalize;
};

constexpr int64_t kMaxExperts = 512, kMaxChosen = 32;

void router(const RouterArgs& args, Stream stream);

}  // namespace pagecli::cuda
