// How many threads the kernels use; the team itself lives in cpu/parallel.h.
#pragma once

namespace pagecli {

// Threads a kernel may use, the calling one included. Starts as OpenMP's own default (OMP_NUM_THREADS, else the cores).
int max_threads();

// `count` is at least 1.
void set_max_threads(int count);

}  // namespace pagecli
