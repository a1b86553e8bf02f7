// A token's place in the order of falling logits, equal ones by id, without sorting: histograms of a key, digit by digit. What
// falls into the first digit's bin is usually little: it is kept in shared memory, and the row not read again.
#pragma once

#include "logits.h"

namespace pagecli::cuda {

constexpr int kBins = 256, kListed = 2048;

// Numbers as integers of the same order.
__device__ inline uint32_t ordered(float value) {
    const uint32_t bits = __float_as_uint(value + 0.0f);  // -0 is 0
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ inline float value_of(uint32_t key) { return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key); }

// How far a value lies below the largest, in eighths: values spread over many bins, where the leading bits of floats would fill
// a few that every thread adds to.
__device__ inline int bin_below(float below) {
    return below * 8.0f < static_cast<float>(kBins - 1) ? static_cast<int>(below * 8.0f) : kBins - 1;
}

struct Place {
    uint32_t key;
    int ties_before;       // of the same key
    bool is_last_of_ties;  // none of that key comes after it
};

// What a search of the histogram gives to every thread.
template <class Total>
struct Found {
    int bin;
    Total position, inside;  // within the bin; of the whole bin
};

// Warp 0 looks for the bin that choose(sum of all) falls into; each lane has 8 bins. Called by all threads.
template <class Total, class Choose>
__device__ __forceinline__ Found<Total> find_bin(const Total* bins, const Choose& choose) {
    PAGECLI_SHARED_ARRAY(Found<Total>, found, 1);
    constexpr int kEach = kBins / kWarp;
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    if (threadIdx.x < kWarp) {
        Total mine = 0;
        for (int i = 0; i < kEach; ++i) mine += bins[lane * kEach + i];
        Total before = warp_sum_before(mine, lane);
        const Total position = choose(__shfl_sync(kAllLanes, before + mine, kWarp - 1));
        if (position >= before && position - before < mine) {
            int bin = lane * kEach;
            while (position - before >= bins[bin]) before += bins[bin++];
            found[0] = {bin, position - before, bins[bin]};
        }
    }
    __syncthreads();
    const Found<Total> result = found[0];
    __syncthreads();
    return result;
}

// The place at position choose(sum of all) of the order, counted in `measure`. An order has float value(float logit), whose
// larger ones come first, int bin(float value), rising as values fall, and Total measure(float value); where that is 0 the
// logit takes no part.
template <class Total, class Order, class Choose>
__device__ __forceinline__ Place find_place(const float* row, int cols, const Order& order, const Choose& choose) {
    PAGECLI_SHARED_ARRAY(Total, bins, kBins);
    PAGECLI_SHARED_ARRAY(float, listed, kListed);
    PAGECLI_SHARED_ARRAY(int, num_listed, 1);
    const auto clear = [&] {
        for (int bin = static_cast<int>(threadIdx.x); bin < kBins; bin += kRowThreads) bins[bin] = 0;
        if (threadIdx.x == 0) num_listed[0] = 0;
        __syncthreads();
    };
    clear();
    for_each_logit(row, cols, [&](int, float logit) {
        const float value = order.value(logit);
        const Total measure = order.measure(value);
        if (measure != 0) atomicAdd(&bins[order.bin(value)], measure);
    });
    __syncthreads();
    Found<Total> found = find_bin(bins, choose);
    const int first_bin = found.bin;
    for_each_logit(row, cols, [&](int, float logit) {
        const float value = order.value(logit);
        if (order.bin(value) != first_bin || order.measure(value) == 0) return;
        const int at = atomicAdd(num_listed, 1);
        if (at < kListed) listed[at] = value;
    });
    __syncthreads();
    const int count = num_listed[0];
    __syncthreads();
    uint32_t prefix = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        clear();
        const auto add = [&](float value) {
            const uint32_t key = ordered(value);
            if (shift < 24 && (key ^ prefix) >> (shift + 8) != 0) return;
            const Total measure = order.measure(value);
            if (measure != 0) atomicAdd(&bins[255u - (key >> shift & 255u)], measure);
        };
        if (count <= kListed) {
            for (int i = static_cast<int>(threadIdx.x); i < count; i += kRowThreads) add(listed[i]);
        } else {
            for_each_logit(row, cols, [&](int, float logit) {
                const float value = order.value(logit);
                if (order.bin(value) == first_bin) add(value);
            });
        }
        __syncthreads();
        const Total position = found.position;
        found = find_bin(bins, [&](Total) { return position; });
        prefix |= (255u - static_cast<uint32_t>(found.bin)) << shift;
    }
    // All that is left has one key: ties, in the order of their ids.
    const Total each = order.measure(value_of(prefix)), ties_before = found.position / each;
    return {prefix, static_cast<int>(ties_before), (ties_before + 1) * each >= found.inside};
}

}  // namespace pagecli::cuda
