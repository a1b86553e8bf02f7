// From quantized weights (quantized_weight.h) to those that the tiles of linear multiply, as packed_weight.h lays them out: a stretch
// of k of some panels at a time, which stays in a core's cache while all rows of x pass over it.
#pragma once

#include "linear/quantized/numbers.h"
#include "linear/tiles/linear_tile.h"

namespace pagecli::PAGECLI_ISA {

// Floats rounded to bfloat16, of two k the odd one first: against x split that way (linear_activations.h).
struct SplitFloat {
    float value;
};

// `pairs` of `lane` and the lanes beside it.
PAGECLI_INLINE void store_pair(SplitFloat* to, int lane, const Pair& pair) {
    store(&to->value + lane, rounded(pair.odd));
    store(&to->value + kPanelWidth + lane, rounded(pair.even));
}
PAGECLI_INLINE void store_pair(float* to, int lane, const Pair& pair) {
    store(to + lane, pair.even);
    store(to + kPanelWidth + lane, pair.odd);
}
PAGECLI_INLINE void store_pair(uint16_t* to, int lane, const Pair& pair) {
    const VecF rounded = from_bits(round_to_pairs(pair.even, pair.odd));
    memcpy(to + 2 * lane, &rounded, sizeof rounded);
}

// Pairs `pair` up to `last` of a run.
template <int bits, int pair, int last, class Weight>
PAGECLI_INLINE void unpack_pairs(Weight* to, const uint8_t* q, int lane, const RunScale& by, const Table& table) {
    store_pair(to + pair * 2 * kPanelWidth, lane, by.weights<bits, pair>(q, lane, table));
    if constexpr (pair + 1 < last) unpack_pairs<bits, pair + 1, last>(to, q, lane, by, table);
}

// `num_groups` groups of one panel.
template <class Weight, int bits>
void unpack_groups(void* weights, const uint8_t* group, int64_t num_groups, const QuantizedHeader& header) {
    constexpr int kHalf = kRunPairs / 2;
    constexpr int64_t kAhead = 2048;  // bytes of the panel, prefetched
    Weight* to = static_cast<Weight*>(weights);
    const Table table = load_table(header.table);
    const int64_t scales_bytes = header.scales_bytes(), factors_bytes = header.factors_bytes(), run_bytes = header.run_bytes();
    for (int64_t i = 0; i < num_groups; ++i) {
        const uint8_t* run = group + scales_bytes;
        for (int64_t k = 0; k < header.group; k += kRunK, run += run_bytes, to += kRunK * kPanelWidth) {
            for (int64_t at = 0; at < run_bytes; at += 64) __builtin_prefetch(run + kAhead + at, 0, 3);
            const uint8_t* q = run + factors_bytes;
            PAGECLI_UNROLL
            for (int lane = 0; lane < kPanelWidth; lane += VecF::width) {
                const RunScale by = scale_of(header, group, run, 0, lane);
                unpack_pairs<bits, 0, kHalf>(to, q, lane, by, table);
                if (header.part == kRunK / 2)
                    unpack_pairs<bits, kHalf, kRunPairs>(to, q, lane, scale_of(header, group, run, 1, lane), table);
                else
                    unpack_pairs<bits, kHalf, kRunPairs>(to, q, lane, by, table);
            }
        }
        group = run;
    }
}

using UnpackFunction = void (*)(void* weights, const uint8_t* group, int64_t num_groups, const QuantizedHeader& header);

template <class Weight>
UnpackFunction unpack_function(int numbers) {
    switch (numbers) {
        case 2: return unpack_groups<Weight, 2>;
        case 3: return unpack_groups<Weight, 3>;
        case 4: return unpack_groups<Weight, 4>;
        case 5: return unpack_groups<Weight, 5>;
        case 6: return unpack_groups<Weight, 6>;
        case kFloat8: return unpack_groups<Weight, kFloat8>;
        default: return unpack_groups<Weight, 8>;
    }
}

}  // namespace pagecli::PAGECLI_ISA
