// How the K of one KV head lies in a block and is read: one dimension after another, a dimension's slots side by side, so that
// lanes are keys and a score needs no sum across lanes. int8: the slots' scales, float32, follow the last dimension.
#pragma once

#include "kv_slot.h"

namespace pagecli::PAGECLI_ISA {

constexpr int kGroupKeys = 16;  // read at once; a block of a multiple of them is read in place
constexpr int kGroupVectors = kGroupKeys / VecF::width;

// How a tile is brought near while the one before it is computed. With AVX-512 into L2, from both of its groups in turn: two cores of
// an Emerald Rapids decode from float32 caches in 0.87 of the time, from bfloat16 in 0.91, as L1 has few lines to wait with. Else into L1 and
// in the order of memory, which on a Zen 3 takes a tenth less than in turn.
constexpr bool fetches_groups_in_turn = VecF::width == 16;
constexpr int kFetchLocality = fetches_groups_in_turn ? 2 : 3;

// Where bfloat16 fills pairs of two vectors, splitting these is cheaper than widening each: even keys first, then odd ones.
template <class T>
constexpr bool keys_in_pairs = has_pairs<T> && kGroupVectors == 2;

// One dimension of 16 keys, in the order that is cheapest to read.
template <class T>
PAGECLI_INLINE void load_keys(const T* p, VecF (&keys)[kGroupVectors]) {
    if constexpr (keys_in_pairs<T>) {
        keys[0] = load_first(p);
        keys[1] = load_second(p);
    } else {
        PAGECLI_UNROLL
        for (int v = 0; v < kGroupVectors; ++v) keys[v] = load_kv(p + v * VecF::width);
    }
}

// Scores summed over what load_keys gave, brought into the keys' order.
template <class T>
PAGECLI_INLINE void order_keys(VecF* scores) {
    if constexpr (keys_in_pairs<T>) {
        const VecF even = scores[0], odd = scores[1];
        scores[0] = interleave_low(even, odd);
        scores[1] = interleave_high(even, odd);
    }
}

// `count` dimensions of 16 keys from p on.
template <class T>
PAGECLI_INLINE void prefetch_keys(const T* p, int64_t stride, int count) {
    constexpr int64_t kLine = 64 / sizeof(T);
    const int64_t step = stride < kLine ? kLine : stride;
    for (int64_t at = 0; at < count * stride; at += step) __builtin_prefetch(p + at, 0, kFetchLocality);
}

}  // namespace pagecli::PAGECLI_ISA
