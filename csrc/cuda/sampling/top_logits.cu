// top_logits: one block for a row looks for the place of the last one wanted, then collects what comes before it. They are few
// and come in the order of ids: whoever reads them sorts.
#include "pagecli/cuda/sampling/top_logits.h"

#include "device/launch.h"
#include "place.h"

namespace pagecli::cuda {
namespace {

struct ByCount {
    float largest;

    __device__ float value(float logit) const { return logit == logit ? logit : -INFINITY; }
    __device__ int bin(float value) const { return bin_below(largest - value); }
    __device__ int measure(float) const { return 1; }
};

__global__ void __launch_bounds__(kRowThreads) top_logits_kernel(TopLogitsArgs a) {
    PAGECLI_SHARED_ARRAY(int2, of_warp, kRowWarps);
    const int first = a.offsets[blockIdx.x], count = a.offsets[blockIdx.x + 1] - first, cols = static_cast<int>(a.cols);
    if (count <= 0) return;
    const float* row = a.logits + a.rows[blockIdx.x] * a.logits_stride;
    const ByCount order = {largest_logit(row, cols)};
    const Place last = find_place<int>(row, cols, order, [&](int) { return count - 1; });

    const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
    const WarpRun run = run_of_warp(cols);
    int above = 0, equal = 0;
    for (int i = run.begin + lane; i < run.end; i += kWarp) {
        const uint32_t key = ordered(order.value(row[i]));
        above += key > last.key;
        equal += key == last.key;
    }
#pragma unroll
    for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
        above += __shfl_xor_sync(kAllLanes, above, lanes);
        equal += __shfl_xor_sync(kAllLanes, equal, lanes);
    }
    if (lane == 0) of_warp[warp] = {above, equal};
    __syncthreads();
    above = equal = 0;  // before the warp's run
    for (int w = 0; w < warp; ++w) {
        above += of_warp[w].x;
        equal += of_warp[w].y;
    }
    const int wanted = last.ties_before + 1;  // of the equal ones
    const unsigned lower_lanes = (1u << lane) - 1;
    for (int start = run.begin; start < run.end; start += kWarp) {
        const int i = start + lane;
        const float value = i < run.end ? order.value(row[i]) : 0.0f;
        const uint32_t key = ordered(value);
        const unsigned higher = __ballot_sync(kAllLanes, i < run.end && key > last.key);
        const unsigned ties = __ballot_sync(kAllLanes, i < run.end && key == last.key);
        const int ties_here = equal + __popc(ties & lower_lanes);
        const bool is_higher = higher >> lane & 1, is_tie = ties >> lane & 1 && ties_here < wanted;
        if (is_higher || is_tie) {
            const int at = first + above + __popc(higher & lower_lanes) + (ties_here < wanted ? ties_here : wanted);
            a.ids[at] = i;
            a.values[at] = value;
        }
        above += __popc(higher);
        equal += __popc(ties);
    }
}

}  // namespace

void top_logits(const TopLogitsArgs& a, Stream stream) {
    if (a.num_rows > 0) launch<top_logits_kernel>({a.num_rows, 1, 1, kRowThreads, stream}, a);
}

}  // namespace pagecli::cuda
