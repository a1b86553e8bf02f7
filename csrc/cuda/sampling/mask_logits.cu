// mask_logits: a warp reads one word for its 32 logits, and none of these. forbid_tokens: a thread for each pair.
#include "pagecli/cuda/sampling/mask_logits.h"

#include "device/launch.h"
#include "device/platform.h"

namespace pagecli::cuda {
namespace {

constexpr int kThreads = 256, kEach = 8;  // logits of a thread

__global__ void __launch_bounds__(kThreads) mask_logits_kernel(MaskLogitsArgs a) {
    const int64_t words = (a.cols + 31) / 32;
    float* row = a.logits + a.rows[blockIdx.x] * a.logits_stride;
    const uint32_t* mask = a.masks + blockIdx.x * words;
    const int64_t first = static_cast<int64_t>(blockIdx.y) * kThreads * kEach + threadIdx.x;
#pragma unroll
    for (int turn = 0; turn < kEach; ++turn) {
        const int64_t i = first + turn * kThreads;
        if (i < a.cols && (mask[i / 32] >> (i % 32) & 1) == 0) row[i] = -INFINITY;
    }
}

__global__ void __launch_bounds__(kThreads) forbid_tokens_kernel(ForbidTokensArgs a) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    if (i < a.num_pairs) a.logits[a.rows[i] * a.logits_stride + a.ids[i]] = -INFINITY;
}

}  // namespace

void mask_logits(const MaskLogitsArgs& a, Stream stream) {
    if (a.num_rows > 0)
        launch<mask_logits_kernel>({a.num_rows, divide_up(a.cols, kThreads * kEach), 1, kThreads, stream}, a);
}

void forbid_tokens(const ForbidTokensArgs& a, Stream stream) {
    if (a.num_pairs > 0) launch<forbid_tokens_kernel>({divide_up(a.num_pairs, kThreads), 1, 1, kThreads, stream}, a);
}

}  // namespace pagecli::cuda
