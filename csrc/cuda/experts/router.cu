// The choice of experts: a warp for each token, its lanes over the experts, the largest by repeated search.
#include <limits.h>

#include "device/launch.h"
#include "device/reduce.h"
#include "pagecli/cuda/experts/router.h"

namespace pagecli::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / kWarp;
constexpr int kEach = static_cast<int>(kMaxExperts) / kWarp;  // experts of a lane: lane, lane + 32, ...
static_assert(kMaxChosen <= kWarp);

struct Best {
    float logit;
    int expert;
    __device__ bool is_behind(float other, int other_expert) const {
        return other > logit || (other == logit && other_expert < expert);
    }
};

// The largest of a row's logits but those `taken`, of equal ones the first; NaN counts as -infinity.
__device__ inline Best largest(const float (&logits)[kEach], unsigned taken, int experts) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    Best best = {-INFINITY, INT_MAX};
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
        const int expert = lane + i * kWarp;
        const float logit = logits[i] == logits[i] ? logits[i] : -INFINITY;
        if (expert < experts && (taken >> i & 1u) == 0 && best.is_behind(logit, expert)) best = {logit, expert};
    }
#pragma unroll
    for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
        const float logit = __shfl_xor_sync(kAllLanes, best.logit, lanes);
        const int expert = __shfl_xor_sync(kAllLanes, best.expert, lanes);
        if (best.is_behind(logit, expert)) best = {logit, expert};
    }
    return best;
}

__global__ void __launch_bounds__(kThreads) router_kernel(RouterArgs a) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
    const int64_t token = static_cast<int64_t>(blockIdx.x) * kWarps + warp;
    if (token >= a.tokens) return;
    const int experts = static_cast<int>(a.experts), chosen = static_cast<int>(a.chosen);
    int32_t* ids = a.ids + token * chosen;
    float* weights = a.weights + token * chosen;
    if (a.token_ids[token] < 0) {
        if (lane < chosen) {
            ids[lane] = -1;
            weights[lane] = -1.0f;
        }
        return;
    }
    float logits[kEach];
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
        const int expert = lane + i * kWarp;
        logits[i] = expert < experts ? a.logits[token * a.logits_stride + expert] : -INFINITY;
    }
    unsigned taken = 0;
    Best mine = {0.0f, 0};
    float highest = 0.0f, of_chosen = 0.0f;
    for (int c = 0; c < chosen; ++c) {
        const Best best = largest(logits, taken, experts);
        if (c == 0) highest = best.logit;
        if (lane == best.expert % kWarp) taken |= 1u << best.expert / kWarp;
        if (lane == c) mine = best;
        of_chosen += expf(best.logit - highest);
    }
    float of_lane = 0.0f;
#pragma unroll
    for (int i = 0; i < kEach; ++i)
        if (lane + i * kWarp < experts) of_lane += expf(logits[i] - highest);
    const float of_all = warp_sum(of_lane);
    const float divisor = a.normalize && of_all == of_all ? of_chosen : of_all;
    if (lane < chosen) {
        ids[lane] = mine.expert;
        weights[lane] = expf(mine.logit - highest) / divisor;
    }
}

}  // namespace

void router(const RouterArgs& a, Stream stream) {
    if (a.tokens == 0) return;
    launch<router_kernel>({divide_up(a.tokens, kWarps), 1, 1, kThreads, stream}, a);
}

}  // namespace pagecli::cuda
