// Memory a kernel needs while it runs, kept per thread and reused by the next call; compiled once, outside the ISAs.
#pragma once

#include <stdint.h>

namespace pagecli {

// At least `bytes` of the calling thread, 64-byte aligned, contents undefined, valid until the thread's next call.
// Throws std::bad_alloc.
void* thread_scratch(int64_t bytes);

}  // namespace pagecli
