// The one place that decides how kernels share work between threads: OpenMP, whose pool torch's CPU wheel uses too
// (one libgomp in the process), so the two never compete for the cores.
#pragma once

#include <omp.h>
#include <stdint.h>

#include "pagecli/threads.h"

namespace pagecli::PAGECLI_ISA {

// fn(begin, end) for pieces of [0, n), `grain` items each, handed out as threads come free. Choose the grain so that a piece
// takes about 20 microseconds or more; at most one piece, or a single thread, runs on the caller without waking anybody.
// The team is all threads or none: libgomp ends and recreates threads when the team changes its size.
template <class Function>
static inline void parallel_for(int64_t n, int64_t grain, const Function& fn) {
    const int64_t pieces = (n + grain - 1) / grain;
    const int threads = max_threads();
    if (pieces <= 1 || threads <= 1 || omp_in_parallel()) {
        if (n > 0) fn(int64_t{0}, n);
        return;
    }
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (int64_t piece = 0; piece < pieces; ++piece) {
        const int64_t begin = piece * grain;
        const int64_t end = begin + grain < n ? begin + grain : n;
        fn(begin, end);
    }
}

// Rows of `row_size` floats to give one thread at a time, for operations that touch each element a few times.
static inline int64_t row_grain(int64_t row_size) {
    constexpr int64_t kElements = 65536;  // 256 KiB: about 20 microseconds
    return row_size < kElements ? kElements / (row_size > 0 ? row_size : 1) : 1;
}

}  // namespace pagecli::PAGECLI_ISA
