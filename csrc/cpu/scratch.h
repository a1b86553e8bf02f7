// Memory a kernel needs while it runs, kept per thread and reused by the next call; compiled once, outside the ISAs.
#pragma once

#include <stdint.h>

namespace pagecli {

// What is wanted at the same time.
enum class ScratchUse { activations, bounds, rows, gathered, weights };

// At least `bytes` of the calling thread, 64-byte aligned, contents undefined, valid until the thread's next call for the same use.
// Throws std::bad_alloc.
void* thread_scratch(int64_t bytes, ScratchUse use = ScratchUse::activations);

}  // namespace pagecli
