// How kernels cut their work for the threads of the team (pagecli/threads.h).
#pragma once

#include <stdint.h>

#include "pagecli/threads.h"

namespace pagecli::PAGECLI_ISA {

// fn(begin, end) for pieces of [0, n), `grain` items each, handed out as threads come free. Choose the grain so that a piece
// takes about 20 microseconds or more; at most one piece, or a single thread, runs on the caller without waking anybody.
template <class Function>
static inline void parallel_for(int64_t n, int64_t grain, const Function& fn) {
    struct Job {
        const Function& fn;
        int64_t n, grain;
    };
    const int64_t pieces = (n + grain - 1) / grain;
    if (pieces <= 1 || max_threads() <= 1) {
        if (n > 0) fn(int64_t{0}, n);
        return;
    }
    const Job job = {fn, n, grain};
    const PieceFunction run = [](const void* context, int64_t piece) {
        const Job& job = *static_cast<const Job*>(context);
        const int64_t begin = piece * job.grain;
        const int64_t end = begin + job.grain < job.n ? begin + job.grain : job.n;
        job.fn(begin, end);
    };
    run_pieces(pieces, run, &job);
}

// Rows of `row_size` floats to give one thread at a time, for operations that touch each element a few times.
static inline int64_t row_grain(int64_t row_size) {
    constexpr int64_t kElements = 65536;  // 256 KiB: about 20 microseconds
    return row_size < kElements ? kElements / (row_size > 0 ? row_size : 1) : 1;
}

}  // namespace pagecli::PAGECLI_ISA
