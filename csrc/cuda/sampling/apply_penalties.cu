// apply_penalties: one block for a row; a thread for each token that the sequence knows.
#include "pagecli/cuda/sampling/apply_penalties.h"

#include "device/launch.h"
#include "device/platform.h"

namespace pagecli::cuda {
namespace {

constexpr int kThreads = 256;

// As on the CPU, rounded after every operation.
__device__ inline float penalized(float logit, const float* penalties, int count) {
    const float repetition = penalties[0];
    if (repetition != 1.0f) logit = logit > 0.0f ? logit / repetition : __fmul_rn(logit, repetition);
    if (count > 0) logit = logit - __fadd_rn(penalties[1], __fmul_rn(penalties[2], static_cast<float>(count)));
    return logit;
}

__global__ void __launch_bounds__(kThreads) apply_penalties_kernel(ApplyPenaltiesArgs a) {
    PAGECLI_SHARED_ARRAY(int, found, 1);
    const int thread = static_cast<int>(threadIdx.x), block = static_cast<int>(blockIdx.x);
    const int first = a.offsets[block], last = a.offsets[block + 1] - 1;
    const int32_t token = a.token_ids[a.last_tokens[block]];
    if (thread == 0) found[0] = -1;
    __syncthreads();
    for (int i = first + thread; i < last; i += kThreads)
        if (a.ids[i] == token) found[0] = i;
    __syncthreads();
    if (thread == 0) {
        if (found[0] >= 0) a.counts[found[0]] += a.counts[last];
        a.ids[last] = found[0] >= 0 ? -1 : token;
    }
    __syncthreads();
    float* row = a.logits + a.rows[block] * a.logits_stride;
    for (int i = first + thread; i <= last; i += kThreads) {
        const int32_t id = a.ids[i];
        if (id < 0) continue;  // known already, or no token could be chosen
        a.before[i] = row[id];
        row[id] = penalized(row[id], a.penalties + 3 * block, a.counts[i]);
    }
}

}  // namespace

void apply_penalties(const ApplyPenaltiesArgs& a, Stream stream) {
    if (a.num_rows > 0) launch<apply_penalties_kernel>({a.num_rows, 1, 1, kThreads, stream}, a);
}

}  // namespace pagecli::cuda
