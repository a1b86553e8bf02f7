// Additions of float32 are the same bits on every instruction set, so that this is compiled once.
#include "pagecli/elementwise/reduce.h"

#include <string.h>

#include "pagecli/threads.h"

namespace pagecli {
namespace {

constexpr int64_t kBlock = 1024;         // floats summed at a time, in the core's L1
constexpr int64_t kPieceFloats = 32768;  // of all parts together, for a thread at a time: some 3 microseconds

void add(float* __restrict to, const float* __restrict one, const float* __restrict other, int64_t count) {
    for (int64_t i = 0; i < count; ++i) to[i] = one[i] + other[i];
}

void accumulate(float* __restrict to, const float* __restrict part, int64_t count) {
    for (int64_t i = 0; i < count; ++i) to[i] += part[i];
}

void reduce_row(const ReduceArgs& a, int64_t row) {
    for (int64_t first = 0; first < a.width; first += kBlock) {
        const int64_t count = a.width - first < kBlock ? a.width - first : kBlock, offset = row * a.width + first;
        float sums[kBlock];
        float* out = a.out + row * a.out_stride + first;
        float* to = a.accumulate ? sums : out;
        if (a.num_parts == 1)
            memcpy(to, a.parts[0] + offset, static_cast<size_t>(count) * sizeof(float));
        else
            add(to, a.parts[0] + offset, a.parts[1] + offset, count);
        for (int64_t part = 2; part < a.num_parts; ++part) accumulate(to, a.parts[part] + offset, count);
        if (a.accumulate) accumulate(out, sums, count);
    }
}

struct Job {
    const ReduceArgs& args;
    int64_t rows;  // of a piece
};

void reduce_piece(const void* context, int64_t piece) {
    const Job& job = *static_cast<const Job*>(context);
    const int64_t last = (piece + 1) * job.rows;
    for (int64_t row = piece * job.rows; row < (last < job.args.tokens ? last : job.args.tokens); ++row) reduce_row(job.args, row);
}

}  // namespace

void reduce(const ReduceArgs& a) {
    if (a.meeting != nullptr && !a.meeting->meet()) return;
    const int64_t rows_of_piece = kPieceFloats / (a.num_parts * a.width + 1) + 1;
    const Job job = {a, rows_of_piece};
    run_pieces((a.tokens + rows_of_piece - 1) / rows_of_piece, reduce_piece, &job);
}

}  // namespace pagecli
