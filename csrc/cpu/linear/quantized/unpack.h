// From quantized weights (quantized_weight.h) to those that the tiles of linear multiply, as packed_weight.h lays them out: a stretch
// of k of some panels at a time, which stays in a core's cache while all rows of x pass over it.
#pragma once

#include <type_traits>

#include "linear/quantized/numbers.h"
#include "linear/tiles/linear_tile.h"

namespace pagecli::PAGECLI_ISA {

// Floats rounded to bfloat16; of two k the odd one first, against x split that way (linear_activations.h).
struct RoundedFloat {
    float value;
};
struct SplitFloat {
    float value;
};

template <class Weight>
constexpr bool is_rounded_float = std::is_same_v<Weight, RoundedFloat> || std::is_same_v<Weight, SplitFloat>;

// What a RunScale is multiplied by, so that made_of finds what it rounds.
template <class Weight>
constexpr float times_of = is_rounded_float<Weight> ? kRoundedFrom : 1.0f;

template <class Weight>
PAGECLI_INLINE VecF made_of(VecF weight) {
    if constexpr (is_rounded_float<Weight>)
        return rounded_from(weight);
    else
        return weight;
}

// `pair` of `lane` and the lanes beside it.
template <class Weight>
PAGECLI_INLINE void store_pair(Weight* to, int lane, const Pair& pair) {
    if constexpr (std::is_same_v<Weight, uint16_t>) {
        const VecF rounded = from_bits(round_to_pairs(pair.even, pair.odd));
        memcpy(to + 2 * lane, &rounded, sizeof rounded);
    } else {
        constexpr int kEven = std::is_same_v<Weight, SplitFloat> ? kPanelWidth : 0;
        float* const floats = reinterpret_cast<float*>(to) + lane;
        store(floats + kEven, made_of<Weight>(pair.even));
        store(floats + kPanelWidth - kEven, made_of<Weight>(pair.odd));
    }
}

// `octet` of a run, and the next one.
template <int bits, int octet, class Weight>
PAGECLI_INLINE void unpack_octets(Weight* to, const uint8_t* q, int lane, const RunScale& by, const Table& table) {
    Octet<bits, octet> eight;
    eight.read(q, lane, table);
    Weight* const first = to + octet * 8 * kPanelWidth;
    store_pair(first, lane, by.weights(eight.template numbers<0>(table)));
    store_pair(first + 2 * kPanelWidth, lane, by.weights(eight.template numbers<1>(table)));
    store_pair(first + 4 * kPanelWidth, lane, by.weights(eight.template numbers<2>(table)));
    store_pair(first + 6 * kPanelWidth, lane, by.weights(eight.template numbers<3>(table)));
    if constexpr (octet % 2 == 0) unpack_octets<bits, octet + 1>(to, q, lane, by, table);
}

// `num_groups` groups of one panel. What lies `ahead` bytes further is unpacked next.
template <class Weight, int bits>
void unpack_groups(void* weights, const uint8_t* group, int64_t num_groups, const QuantizedHeader& header, int64_t ahead) {
    Weight* to = static_cast<Weight*>(weights);
    const Table table = load_table(header.table);
    const float unit = unit_of<bits>(table);
    const int64_t scales_bytes = header.scales_bytes(), factors_bytes = header.factors_bytes(), run_bytes = header.run_bytes();
    for (int64_t i = 0; i < num_groups; ++i) {
        const uint8_t* run = group + scales_bytes;
        for (int64_t k = 0; k < header.group; k += kRunK, run += run_bytes, to += kRunK * kPanelWidth) {
            for (int64_t at = 0; at < run_bytes; at += 64) __builtin_prefetch(run + ahead + at, 0, 2);
            const uint8_t* q = run + factors_bytes;
            PAGECLI_UNROLL
            for (int lane = 0; lane < kPanelWidth; lane += VecF::width) {
                RunScale by = scale_of(header, group, run, 0, lane).times(unit, times_of<Weight>);
                unpack_octets<bits, 0>(to, q, lane, by, table);
                if (header.part == kRunK / 2) by = scale_of(header, group, run, 1, lane).times(unit, times_of<Weight>);
                unpack_octets<bits, 2>(to, q, lane, by, table);
            }
        }
        group = run;
    }
}

using UnpackFunction = void (*)(void* weights, const uint8_t* group, int64_t num_groups, const QuantizedHeader& header, int64_t ahead);

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
