// Draws tokens without sorting. Probabilities become integers, exp(score - largest) * 2^40, whose sums no order of addition can
// change. In the order of falling score, equal ones by id, every filter keeps a beginning: the first k, the least that holds
// top_p of the mass, what is above min_p. Its last token is found by histograms, digit by digit of the score; the draw then
// walks what is kept in the order of ids.
#include "device/element.h"
#include "device/launch.h"
#include "pagecli/cuda/sampling/sample_tokens.h"
#include "philox.h"

namespace pagecli::cuda {
namespace {

constexpr int kThreads = 512, kWarps = kThreads / kWarp, kBins = 256;
constexpr float kOne = 1099511627776.0f;  // 2^40; 2^21 columns of it stay below 2^62

using Sum = unsigned long long;

template <class T>
struct Row {
    const T* logits;
    int cols;
    float temperature, largest;

    // 0 or less: how far the logit lies below the largest, over the temperature.
    __device__ float score(int i) const { return (to_float(logits[i]) - largest) / temperature; }
    __device__ Sum weight(float score) const { return static_cast<Sum>(expf(score) * kOne); }
};

// Scores as integers of the same order.
__device__ inline uint32_t ordered(float score) {
    const uint32_t bits = __float_as_uint(score + 0.0f);  // -0 is 0
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// Digit 0 is how far a score lies below the largest, in eighths: scores spread over many bins, where the leading bits of
// floats would fill a few that every thread adds to. Digits 1 to 4 are the key's bytes. All rise as scores fall.
__device__ inline int digit_of(int digit, float score) {
    if (digit == 0) {
        const float below = -score * 8.0f;
        return below < static_cast<float>(kBins - 1) ? static_cast<int>(below) : kBins - 1;
    }
    return static_cast<int>(255u - (ordered(score) >> (8 * (4 - digit)) & 255u));
}

struct Histogram {
    Sum mass[kBins];
    Sum count[kBins];
};

// A token's place in the order: its key, the mass before it, and how many of the same key come before it.
struct Place {
    uint32_t key;
    Sum mass_before, weight;
    int ties_before;
};

__device__ inline Sum warp_sum_before(Sum x, int lane) {  // sum over lower lanes
    Sum sum = x;
#pragma unroll
    for (int lanes = 1; lanes < kWarp; lanes *= 2) {
        const Sum other = __shfl_up_sync(kAllLanes, sum, static_cast<unsigned>(lanes));
        if (lane >= lanes) sum += other;
    }
    return sum - x;
}

// What a search of the histogram gives to every thread.
struct Found {
    int bin;
    Sum position_before, mass_before;
};

// Warp 0 looks for the bin that `position` falls into; each lane has 8 bins. Called by all threads.
__device__ Found find_bin(const Histogram& histogram, bool by_mass, Sum position) {
    PAGECLI_SHARED_ARRAY(Found, found, 1);
    constexpr int kEach = kBins / kWarp;
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    const Sum* counted = by_mass ? histogram.mass : histogram.count;
    if (threadIdx.x < kWarp) {
        Sum positions = 0, mass = 0;
        for (int i = 0; i < kEach; ++i) {
            positions += counted[lane * kEach + i];
            mass += histogram.mass[lane * kEach + i];
        }
        const Sum total = positions;
        positions = warp_sum_before(positions, lane);
        mass = warp_sum_before(mass, lane);
        if (position >= positions && position < positions + total) {
            int bin = lane * kEach;
            while (position >= positions + counted[bin]) {
                positions += counted[bin];
                mass += histogram.mass[bin];
                ++bin;
            }
            found[0] = {bin, positions, mass};
        }
    }
    __syncthreads();
    const Found result = found[0];
    __syncthreads();
    return result;
}

// The token at `position` of the order, counted in mass or in tokens; position is below the total.
template <class T>
__device__ Place find_place(const Row<T>& row, Histogram& histogram, bool by_mass, Sum position) {
    uint32_t prefix = 0;
    int bucket = 0;
    Sum mass_before = 0;
    for (int digit = 0; digit <= 4; ++digit) {
        for (int bin = static_cast<int>(threadIdx.x); bin < kBins; bin += kThreads)
            histogram.mass[bin] = histogram.count[bin] = 0;
        __syncthreads();
        for (int i = static_cast<int>(threadIdx.x); i < row.cols; i += kThreads) {
            const float score = row.score(i);
            if (digit > 0 && digit_of(0, score) != bucket) continue;
            if (digit > 1 && (ordered(score) ^ prefix) >> (8 * (5 - digit)) != 0) continue;
            const int bin = digit_of(digit, score);
            atomicAdd(&histogram.mass[bin], row.weight(score));
            atomicAdd(&histogram.count[bin], Sum{1});
        }
        __syncthreads();
        const Found found = find_bin(histogram, by_mass, position);
        position -= found.position_before;
        mass_before += found.mass_before;
        if (digit == 0) {
            bucket = found.bin;
        } else {
            prefix |= (255u - static_cast<uint32_t>(found.bin)) << (8 * (4 - digit));
        }
    }
    // All that is left has one key: ties, in the order of their ids.
    const float score = __uint_as_float(prefix & 0x80000000u ? prefix & 0x7fffffffu : ~prefix);
    const Sum weight = row.weight(score), ties = by_mass ? position / weight : position;
    return {prefix, mass_before + ties * weight, weight, static_cast<int>(ties)};
}

// The token at which the running sum of measure(i), in the order of ids, passes choose(sum of all); that is below the sum. Each
// warp has a run of ids.
template <class Measure, class Choose>
__device__ int find_in_order(int cols, const Measure& measure, const Choose& choose) {
    PAGECLI_SHARED_ARRAY(Sum, of_warp, kWarps);
    PAGECLI_SHARED_ARRAY(int, found, 1);
    const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
    const int each = (cols + kThreads - 1) / kThreads * kWarp, begin = warp * each;
    const int end = begin + each < cols ? begin + each : cols;
    Sum mine = 0;
    for (int i = begin + lane; i < end; i += kWarp) mine += measure(i);
#pragma unroll
    for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) mine += __shfl_xor_sync(kAllLanes, mine, lanes);
    if (lane == 0) of_warp[warp] = mine;
    __syncthreads();
    Sum total = 0, before_warp = 0;
    for (int w = 0; w < kWarps; ++w) {
        if (w == warp) before_warp = total;
        total += of_warp[w];
    }
    Sum position = choose(total);
    if (position >= before_warp && position - before_warp < mine) {
        position -= before_warp;
        for (int first = begin; first < end; first += kWarp) {
            const Sum here = first + lane < end ? measure(first + lane) : 0, before = warp_sum_before(here, lane);
            if (position >= before && position - before < here) found[0] = first + lane;
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

template <class T>
__device__ Border find_border(const SampleTokensArgs& a, int64_t draw, const Row<T>& row, Histogram& histogram, Sum mass) {
    Place last = {0, 0, 0, row.cols};
    bool cut = false;
    if (a.top_k[draw] > 0 && a.top_k[draw] < row.cols) {
        last = find_place(row, histogram, false, static_cast<Sum>(a.top_k[draw] - 1));
        mass = last.mass_before + last.weight;
        cut = true;
    }
    if (a.top_p[draw] < 1.0f) {  // the last token kept is the first before which that much mass does not yet lie
        const auto wanted = static_cast<Sum>(ceil(static_cast<double>(a.top_p[draw]) * static_cast<double>(mass)));
        if (wanted < mass) {
            last = find_place(row, histogram, true, wanted > 0 ? wanted - 1 : 0);
            cut = true;
        }
    }
    Border border = {0, row.cols, a.min_p[draw] * kOne};
    if (cut) {
        border.key = last.key;
        border.last_id = find_in_order(
            row.cols, [&](int i) { return static_cast<Sum>(ordered(row.score(i)) == last.key); },
            [&](Sum) { return static_cast<Sum>(last.ties_before); });
    }
    return border;
}

// Largest logit of the row; +inf where one is NaN.
template <class T>
__device__ float largest_logit(const Row<T>& row) {
    PAGECLI_SHARED_ARRAY(float, partial, kWarps);
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    float largest = -INFINITY;
#pragma unroll 4
    for (int i = static_cast<int>(threadIdx.x); i < row.cols; i += kThreads) {
        const float logit = to_float(row.logits[i]);
        largest = fmaxf(largest, logit == logit ? logit : INFINITY);
    }
    for (int turn = 0; turn < 2; ++turn) {
#pragma unroll
        for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, lanes));
        if (turn == 1) break;
        if (lane == 0) partial[threadIdx.x / kWarp] = largest;
        __syncthreads();
        largest = lane < kWarps ? partial[lane] : -INFINITY;
    }
    return largest;
}

template <class T>
__global__ void __launch_bounds__(kThreads) sample_tokens_kernel(SampleTokensArgs a) {
    PAGECLI_SHARED_ARRAY(Histogram, histogram, 1);
    PAGECLI_SHARED_ARRAY(Sum, total, 1);
    const int64_t draw = blockIdx.x;
    const float temperature = a.temperatures[draw];
    Row<T> row = {static_cast<const T*>(a.logits) + a.rows[draw] * a.logits_stride, static_cast<int>(a.cols), temperature, 0.0f};
    row.largest = largest_logit(row);
    if (!(fabsf(row.largest) < INFINITY)) {  // no token can be chosen
        if (threadIdx.x == 0) a.out[draw] = -1;
        return;
    }
    if (temperature < kMinTemperature || a.top_p[draw] <= 0.0f || a.top_k[draw] == 1) {
        const int token = find_in_order(
            row.cols, [&](int i) { return static_cast<Sum>(to_float(row.logits[i]) == row.largest); },
            [](Sum) { return Sum{0}; });
        if (threadIdx.x == 0) a.out[draw] = token;
        return;
    }
    Border border = {0, row.cols, a.min_p[draw] * kOne};
    if (a.top_k[draw] > 0 || a.top_p[draw] < 1.0f) {
        if (threadIdx.x == 0) total[0] = 0;
        __syncthreads();
        Sum mass = 0;
        for (int i = static_cast<int>(threadIdx.x); i < row.cols; i += kThreads) mass += row.weight(row.score(i));
        atomicAdd(&total[0], mass);
        __syncthreads();
        border = find_border(a, draw, row, histogram[0], total[0]);
    }
    const double uniform = philox_uniform(a.keys + 4 * draw);
    const int token = find_in_order(
        row.cols,
        [&](int i) {
            const float score = row.score(i);
            const Sum weight = row.weight(score);
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
    if (a.draws == 0) return;
    const LaunchShape shape = {a.draws, 1, 1, kThreads, stream};
    with_element_type(a.type, [&](auto element) { launch<sample_tokens_kernel<decltype(element)>>(shape, a); });
}

}  // namespace pagecli::cuda
