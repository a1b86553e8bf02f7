// Draws tokens without sorting. Probabilities become integers, exp(score - largest) * 2^40, whose sums no order of addition can
// change; scores more than 27.7 below the largest have none. In the order of falling score, equal ones by id, every filter keeps
// a beginning: the first k, the least that holds top_p of the mass, what is above min_p. The draw then walks what is kept in the
// order of ids.
#include "pagecli/cuda/sampling/sample_tokens.h"

#include "device/launch.h"
#include "philox.h"
#include "place.h"

namespace pagecli::cuda {
namespace {

constexpr float kOne = 1099511627776.0f;  // 2^40; 2^21 columns of it stay below 2^62

using Sum = unsigned long long;

struct Scores {
    float largest, temperature;

    // 0 or less: how far the logit lies below the largest, over the temperature.
    __device__ float value(float logit) const { return (logit - largest) / temperature; }
    __device__ int bin(float score) const { return bin_below(-score); }
    __device__ static Sum weight(float score) { return static_cast<Sum>(expf(score) * kOne); }
};
struct ByCount : Scores {
    __device__ int measure(float) const { return 1; }
};
struct ByMass : Scores {
    __device__ Sum measure(float score) const { return weight(score); }
};

// The token at which the running sum of measure(logit), in the order of ids, passes choose(sum of all); that is below the sum.
template <class Measure, class Choose>
__device__ __forceinline__ int find_in_order(const float* row, int cols, const Measure& measure, const Choose& choose) {
    PAGECLI_SHARED_ARRAY(Sum, of_warp, kRowWarps);
    PAGECLI_SHARED_ARRAY(int, found, 1);
    const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
    const WarpRun run = run_of_warp(cols);
    Sum mine = 0;
#pragma unroll 4
    for (int i = run.begin + lane; i < run.end; i += kWarp) mine += measure(i, row[i]);
#pragma unroll
    for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) mine += __shfl_xor_sync(kAllLanes, mine, lanes);
    if (lane == 0) of_warp[warp] = mine;
    __syncthreads();
    Sum total = 0, before_warp = 0;
    for (int w = 0; w < kRowWarps; ++w) {
        if (w == warp) before_warp = total;
        total += of_warp[w];
    }
    Sum position = choose(total);
    if (position >= before_warp && position - before_warp < mine) {
        position -= before_warp;
        for (int first = run.begin; first < run.end; first += kWarp) {
            const int i = first + lane;
            const Sum here = i < run.end ? measure(i, row[i]) : 0, before = warp_sum_before(here, lane);
            if (position >= before && position - before < here) found[0] = i;
            const Sum all = __shfl_sync(kAllLanes, before + here, kWarp - 1);
            if (position < all) break;
            position -= all;
        }
    }
    __syncthreads();
    const int result = found[0];
    __syncthreads();
    return result;
}

// What the filters keep: scores above a key, those equal to it up to one id, and none whose weight is below `least`.
struct Border {
    uint32_t key;
    int last_id;
    float least;
};

__device__ inline bool is_kept(const Border& border, int i, float score, Sum weight) {
    const uint32_t key = ordered(score);
    return (key > border.key || (key == border.key && i <= border.last_id)) && static_cast<float>(weight) >= border.least;
}

// The weight of all up to a place.
__device__ __forceinline__ Sum mass_up_to(const float* row, int cols, const Scores& scores, const Place& last) {
    Sum mass = 0;
    for_each_logit(row, cols, [&](int, float logit) {
        const float score = scores.value(logit);
        if (ordered(score) > last.key) mass += Scores::weight(score);
    });
    return block_total(mass) + static_cast<Sum>(last.ties_before + 1) * Scores::weight(value_of(last.key));
}

__device__ __forceinline__ Border find_border(const SampleTokensArgs& a, int64_t draw, const float* row, const Scores& scores) {
    const int cols = static_cast<int>(a.cols), k = a.top_k[draw];
    Place last = {0, 0, true};  // of all
    Sum mass = 0;
    const bool cuts_count = k > 0 && k < cols, cuts_mass = a.top_p[draw] < 1.0f;
    if (cuts_count) {
        last = find_place<int>(row, cols, ByCount{scores}, [&](int) { return k - 1; });
        if (cuts_mass) mass = mass_up_to(row, cols, scores, last);
    }
    if (cuts_mass) {  // the last token kept is the first before which that much mass does not yet lie
        last = find_place<Sum>(row, cols, ByMass{scores}, [&](Sum all) {
            const double kept = static_cast<double>(cuts_count ? mass : all);
            const auto wanted = static_cast<Sum>(ceil(static_cast<double>(a.top_p[draw]) * kept));
            return wanted > 0 ? wanted - 1 : 0;
        });
    }
    Border border = {last.key, cols, a.min_p[draw] * kOne};
    if (!last.is_last_of_ties) {
        border.last_id = find_in_order(
            row, cols, [&](int, float logit) { return static_cast<Sum>(ordered(scores.value(logit)) == last.key); },
            [&](Sum) { return static_cast<Sum>(last.ties_before); });
    }
    return border;
}

__global__ void __launch_bounds__(kRowThreads, 2) sample_tokens_kernel(SampleTokensArgs a) {
    const int64_t draw = blockIdx.x;
    const float temperature = a.temperatures[draw];
    const float* row = a.logits + a.rows[draw] * a.logits_stride;
    const int cols = static_cast<int>(a.cols);
    const float largest = largest_logit(row, cols);
    if (!(fabsf(largest) < INFINITY)) {  // no token can be chosen
        if (threadIdx.x == 0) a.out[draw] = -1;
        return;
    }
    if (temperature < kMinTemperature || a.top_p[draw] <= 0.0f || a.top_k[draw] == 1) {
        const int token = find_in_order(
            row, cols, [&](int, float logit) { return static_cast<Sum>(logit == largest); }, [](Sum) { return Sum{0}; });
        if (threadIdx.x == 0) a.out[draw] = token;
        return;
    }
    const Scores scores = {largest, temperature};
    const Border border = find_border(a, draw, row, scores);
    const double uniform = philox_uniform(a.keys + 4 * draw);
    const int token = find_in_order(
        row, cols,
        [&](int i, float logit) {
            const float score = scores.value(logit);
            const Sum weight = Scores::weight(score);
            return is_kept(border, i, score, weight) ? weight : Sum{0};
        },
        [&](Sum kept) {
            const auto position = static_cast<Sum>(uniform * static_cast<double>(kept));
            return position < kept ? position : kept - 1;
        });
    if (threadIdx.x == 0) a.out[draw] = token;
}

}  // namespace

void sample_tokens(const SampleTokensArgs& a, Stream stream) {
    if (a.draws > 0) launch<sample_tokens_kernel>({a.draws, 1, 1, kRowThreads, stream}, a);
}

}  // namespace pagecli::cuda
