// token_logprobs: one block for a token looks for it among those whose logits a penalty has changed.
#include "pagecli/cuda/sampling/token_logprobs.h"

#include "device/launch.h"
#include "device/platform.h"

namespace pagecli::cuda {
namespace {

constexpr int kThreads = 128;

__global__ void __launch_bounds__(kThreads) token_logprobs_kernel(TokenLogprobsArgs a) {
    PAGECLI_SHARED_ARRAY(float, logit, 1);
    const int32_t* wanted = a.wanted + 5 * blockIdx.x;
    const int64_t token = a.tokens[wanted[0]];
    const float* normalizers = a.normalizers + 2 * wanted[2];
    if (token < 0) {
        if (threadIdx.x == 0) a.out[blockIdx.x] = NAN;
        return;
    }
    if (threadIdx.x == 0) logit[0] = a.logits[wanted[1] * a.logits_stride + token];
    __syncthreads();
    for (int i = wanted[3] + static_cast<int>(threadIdx.x); i < wanted[4]; i += kThreads)
        if (a.ids[i] == token) logit[0] = a.before[i];
    __syncthreads();
    if (threadIdx.x == 0) a.out[blockIdx.x] = logit[0] - normalizers[0] - normalizers[1];
}

}  // namespace

void token_logprobs(const TokenLogprobsArgs& a, Stream stream) {
    if (a.num_wanted > 0) launch<token_logprobs_kernel>({a.num_wanted, 1, 1, kThreads, stream}, a);
}

}  // namespace pagecli::cuda
