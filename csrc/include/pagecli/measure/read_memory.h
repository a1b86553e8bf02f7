// Arguments of read_memory: what the memory can do at best, for benchmarks; no model runs it.
#pragma once

#include <stdint.h>

namespace pagecli {

// Reads memory from end to end, once, by all threads.
struct ReadMemoryArgs {
    const void* data;
    int64_t bytes;
    uint32_t* mixed;  // out: all words, exclusive-or; what keeps a compiler from leaving the reading out
};

}  // namespace pagecli
