// apply_penalties: logits of tokens that a sequence knows are lowered: all by a factor (Keskar et al., 2019), those of the output by
// a sum as well.
#pragma once

#include <stdint.h>

namespace pagecli {

struct ApplyPenaltiesArgs {
    float* logits;           // [any, cols]
    const int64_t* rows;     // [num], of logits, each once
    const float* penalties;  // [num, 3]: repetition divides positive logits and multiplies others; presence once, and frequency
                             // for each time, is taken from tokens of the output
    const int32_t* ids;      // [num, width], below cols: the tokens that the row's sequence knows, each once; below 0: none
    const int32_t* counts;   // [num, width], how often they are in the output
    int64_t logits_stride, known_stride, num, width;
};

void apply_penalties(const ApplyPenaltiesArgs& args);

}  // namespace pagecli
