// One token after the other: each row knows a few of all tokens. No instruction set rounds these operations otherwise, so that this
// is compiled once.
#include "pagecli/sampling/apply_penalties.h"

#include "pagecli/threads.h"

namespace pagecli {
namespace {

constexpr int64_t kPieceTokens = 16384;  // for a thread at a time

void penalize_row(const ApplyPenaltiesArgs& a, int64_t n) {
    float* logits = a.logits + a.rows[n] * a.logits_stride;
    const float* penalties = a.penalties + 3 * n;
    const int32_t* ids = a.ids + n * a.known_stride;
    const int32_t* counts = a.counts + n * a.known_stride;
    for (int64_t i = 0; i < a.width; ++i) {
        if (ids[i] < 0) continue;
        float& logit = logits[ids[i]];
        logit = logit > 0.0f ? logit / penalties[0] : logit * penalties[0];
        if (counts[i] > 0) logit -= penalties[1] + penalties[2] * static_cast<float>(counts[i]);
    }
}

}  // namespace

void apply_penalties(const ApplyPenaltiesArgs& a) {
    const int64_t piece_rows = kPieceTokens / (a.width + 1) + 1;
    struct Job {
        const ApplyPenaltiesArgs& args;
        int64_t piece_rows;
    };
    const Job job = {a, piece_rows};
    const PieceFunction run = [](const void* context, int64_t piece) {
        const Job& job = *static_cast<const Job*>(context);
        const int64_t begin = piece * job.piece_rows, end = begin + job.piece_rows;
        for (int64_t n = begin; n < end && n < job.args.num; ++n) penalize_row(job.args, n);
    };
    run_pieces((a.num + piece_rows - 1) / piece_rows, run, &job);
}

}  // namespace pagecli
