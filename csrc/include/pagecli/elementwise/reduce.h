// Arguments of reduce: the partial sums of a matrix product that was cut along the features it sums over, added in order.
#pragma once

#include <stdint.h>

#include "pagecli/rendezvous.h"

namespace pagecli {

constexpr int kMaxParts = 64;

// out (+)= ((parts[0] + parts[1]) + parts[2]) + ..., which are the same bits whichever processes computed the parts. Where other
// ranks compute some of them, `meeting` is waited for first; if they do not come, out is left as it is.
struct ReduceArgs {
    float* out;  // [tokens, width]
    const float* parts[kMaxParts];  // [tokens, width] each, rows `width` elements apart
    int64_t num_parts;
    int64_t out_stride;
    int64_t tokens, width;
    bool accumulate;
    Rendezvous* meeting;  // null: all parts are of this process
};

void reduce(const ReduceArgs& a);

}  // namespace pagecli
