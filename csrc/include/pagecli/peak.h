// What a machine can do at best, for benchmarks to hold the kernels against; no model runs these.
#pragma once

#include <stdint.h>

#include "pagecli/packed_weight.h"

namespace pagecli {

// The multiply-adds that linear has for weights of `type`, on registers alone, by all threads.
struct PeakArgs {
    WeightType type;
    int64_t pieces;       // of work, some 0.3 ms each; give many times the number of threads
    int64_t* operations;  // out: multiplications and additions that were done
};

// Reads memory from end to end, once, by all threads.
struct ReadMemoryArgs {
    const void* data;
    int64_t bytes;
    uint32_t* mixed;  // out: all words, exclusive-or; what keeps a compiler from leaving the reading out
};

}  // namespace pagecli
