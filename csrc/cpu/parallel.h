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

// The items that one thread takes, from the front, and that others take from the end when their own are done.
class alignas(64) Share {
public:
    void assign(int64_t begin, int64_t end) { state_ = static_cast<uint64_t>(begin) << 32 | static_cast<uint64_t>(end); }
    // The next item of the one end or the other; -1: none is left.
    int64_t take_first() { return take(true); }
    int64_t take_last() { return take(false); }

private:
    int64_t take(bool first) {
        const uint64_t step = first ? uint64_t{1} << 32 : ~uint64_t{0};  // on the begin, or off the end
        uint64_t state = __atomic_load_n(&state_, __ATOMIC_RELAXED);
        do {
            if (state >> 32 >= (state & 0xffffffffu)) return -1;
        } while (!__atomic_compare_exchange_n(&state_, &state, state + step, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
        return static_cast<int64_t>(first ? state >> 32 : (state & 0xffffffffu) - 1);
    }

    uint64_t state_ = 0;  // begin << 32 | end of what is left
};

// fn(item) for each item of [0, n), n < 2^31: every thread takes neighbouring items in their order, so that the memory it reads next
// is known, and then what is left of other threads' items.
template <class Function>
static inline void parallel_shares(int64_t n, const Function& fn) {
    constexpr int kMostShares = 256;
    const int count = max_threads() < kMostShares ? max_threads() : kMostShares;
    Share shares[kMostShares];
    for (int s = 0; s < count; ++s) shares[s].assign(n * s / count, n * (s + 1) / count);
    parallel_for(count, 1, [&](int64_t begin, int64_t end) {
        for (int64_t own = begin; own < end; ++own) {
            for (int64_t item = shares[own].take_first(); item >= 0; item = shares[own].take_first()) fn(item);
            for (int64_t other = own + 1; other < own + count; ++other) {
                Share& share = shares[other % count];
                for (int64_t item = share.take_last(); item >= 0; item = share.take_last()) fn(item);
            }
        }
    });
}

// Rows of `row_size` floats to give one thread at a time, for operations that touch each element a few times.
static inline int64_t row_grain(int64_t row_size) {
    constexpr int64_t kElements = 65536;  // 256 KiB: about 20 microseconds
    return row_size < kElements ? kElements / (row_size > 0 ? row_size : 1) : 1;
}

}  // namespace pagecli::PAGECLI_ISA
