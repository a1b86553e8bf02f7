// Additions of float32 are the same bits on every instruction set, so that this is compiled once.
#include "pagecli/elementwise/reduce.h"

#include "pagecli/threads.h"

namespace pagecli {
namespace {

constexpr int64_t kBlock = 256;          // floats summed at a time, in the core's L1
constexpr int64_t kPieceFloats = 32768;  // of all parts together, for a thread at a time: some 5 microseconds

void reduce_row(const ReduceArgs& a, int64_t row) {
    for (int64_t first = 0; first < a.width; first += kBlock) {
        const int64_t count = a.width - first < kBlock ? a.width - first : kBlock;
        const int64_t offset = row * a.width + first;
        float sums[kBlock];
        for (int64_t i = 0; i < count; ++i) sums[i] = a.parts[0][offset + i];
        for (int64_t part = 1; part < a.num_parts; ++part)
            for (int64_t i = 0; i < count; ++i) sums[i] += a.parts[part][offset + i];
        float* out = a.out + row * a.out_stride + first;
        if (a.accumulate)
            for (int64_t i = 0; i < count; ++i) out[i] = sums[i] + out[i];
        else
            for (int64_t i = 0; i < count; ++i) out[i] = sums[i];
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
