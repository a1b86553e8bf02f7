// argmax: one block of threads for a row; every thread keeps its best, the block the best of those, the lower index on a tie.
#include "pagecli/cuda/sampling/argmax.h"

#include "device/launch.h"
#include "logits.h"

namespace pagecli::cuda {
namespace {

struct Best {
    float value;
    int32_t index;
};

__device__ inline Best better(Best a, Best b) { return b.value > a.value || (b.value == a.value && b.index < a.index) ? b : a; }

// NaN and +inf come before everything, with the index of no token.
__device__ inline Best candidate(float logit, int32_t index) {
    return logit < INFINITY ? Best{logit, index} : Best{INFINITY, -1};
}

__device__ inline Best warp_best(Best best) {
#pragma unroll
    for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
        const Best other = {__shfl_xor_sync(kAllLanes, best.value, lanes), __shfl_xor_sync(kAllLanes, best.index, lanes)};
        best = better(best, other);
    }
    return best;
}

__global__ void __launch_bounds__(kRowThreads) argmax_kernel(ArgmaxArgs a) {
    PAGECLI_SHARED_ARRAY(Best, partial, kRowWarps);
    const int cols = static_cast<int>(a.cols), lane = static_cast<int>(threadIdx.x) % kWarp;
    Best best = {-INFINITY, cols};
    for_each_logit(a.x + static_cast<int64_t>(blockIdx.x) * a.x_stride, cols,
                   [&](int i, float logit) { best = better(best, candidate(logit, i)); });
    best = warp_best(best);
    if (lane == 0) partial[threadIdx.x / kWarp] = best;
    __syncthreads();
    best = warp_best(lane < kRowWarps ? partial[lane] : Best{-INFINITY, cols});
    if (threadIdx.x == 0) a.out[blockIdx.x] = best.value > -INFINITY ? best.index : -1;
}

}  // namespace

void argmax(const ArgmaxArgs& a, Stream stream) {
    if (a.rows > 0) launch<argmax_kernel>({a.rows, 1, 1, kRowThreads, stream}, a);
}

}  // namespace pagecli::cuda
