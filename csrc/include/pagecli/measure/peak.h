// Arguments of peak: what the cores can do at best, for benchmarks to hold the kernels against; no model runs it.
#pragma once

#include <stdint.h>

#include "pagecli/linear/packed_weight.h"

namespace pagecli {

// The multiply-adds that linear has for weights of `type`, on registers alone, by all threads.
struct PeakArgs {
    WeightType type;
    int64_t pieces;       // of work, some 0.3 ms each; give many times the number of threads
    int64_t* operations;  // out: multiplications and additions that were done
};

}  // namespace pagecli
