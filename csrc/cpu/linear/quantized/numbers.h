// The numbers of a run of quantized weights (quantized_weight.h), and what they are multiplied by: a lane for each row.
#pragma once

#include "isa/vec.h"
#include "linear/quantized/look_up.h"
#include "pagecli/linear/quantized_weight.h"

namespace pagecli::PAGECLI_ISA {

constexpr int kRunPairs = static_cast<int>(kRunK) / 2;

// Bits of the first plane; the second has the others, the upper ones.
constexpr int first_plane(int bits) { return bits >= 4 ? 4 : 2; }

// Of a plane of `bits`: the word that pair `pair` is in, and where in it the even k begins.
constexpr int word_of(int bits, int pair) { return pair * bits / 16; }
constexpr int shift_of(int bits, int pair) { return pair * bits % 16; }

struct Pair {
    VecF even, odd;
};

// Of each lane both numbers of a pair, at the lower bits of each half, `up` bits up, zeros below.
template <int bits, int pair, int up>
PAGECLI_INLINE VecI field_of(const uint8_t* plane) {
    constexpr int by = shift_of(bits, pair) - up;
    constexpr uint32_t mask = ((1u << bits) - 1) << up;
    VecI words = load_bytes(plane + word_of(bits, pair) * kPanelWidth * 4);
    if constexpr (by > 0) words = shift_right<by>(words);
    if constexpr (by < 0) words = shift_left<-by>(words);
    return words & broadcast_int(static_cast<int32_t>(mask << 16 | mask));
}

// Pair `pair` of the rows from `lane` on: q of 4 bits, n of others; of 8 bits 2^16 times q, of float8 2^-8 times.
template <int bits, int pair>
PAGECLI_INLINE Pair numbers_of(const uint8_t* q, int lane, const Table& table) {
    if constexpr (bits == kFloat8) {
        const uint8_t* const even = q + pair * 2 * kPanelWidth + lane;
        return {load_float8(even), load_float8(even + kPanelWidth)};
    } else if constexpr (bits == 8) {
        const VecI both = load_int8_pairs(reinterpret_cast<const int8_t*>(q) + pair * 2 * kPanelWidth + 2 * lane);
        return {to_float(shift_left<16>(both)), to_float(both & broadcast_int(static_cast<int32_t>(0xffff0000u)))};
    } else if constexpr (bits == 4) {
        const VecI words = load_bytes(q + (word_of(4, pair) * kPanelWidth + lane) * 4);
        return {look_up(table, shift_right<shift_of(4, pair)>(words)), look_up(table, shift_right<shift_of(4, pair) + 16>(words))};
    } else {
        constexpr int first = first_plane(bits);
        VecI both = field_of<first, pair, 0>(q + 4 * lane);
        if constexpr (bits > first) both = both | field_of<bits - first, pair, first>(q + first * kPanelWidth * 4 + 4 * lane);
        return {to_float(both & broadcast_int(0xffff)), to_float(shift_right<16>(both))};
    }
}

// A weight is scale * number + low, which rounds once: the product has at most 24 bits, or nothing is added.
struct RunScale {
    VecF scale, low;

    template <int bits, int pair>
    [[gnu::always_inline]] Pair weights(const uint8_t* q, int lane, const Table& table) const {
        const Pair numbers = numbers_of<bits, pair>(q, lane, table);
        return {fmadd(numbers.even, scale, low), fmadd(numbers.odd, scale, low)};
    }
};

// Of part `part` of a run, its rows from `lane` on. Every product here is exact.
PAGECLI_INLINE RunScale scale_of(const QuantizedHeader& header, const uint8_t* group, const uint8_t* run, int part, int lane) {
    const uint16_t* halves = reinterpret_cast<const uint16_t*>(group) + lane;
    VecF scale = header.wide != 0 ? load(reinterpret_cast<const float*>(group) + lane) : load_f16(halves);
    VecF low = header.offset == QuantizedOffset::none ? zero() : load_f16(halves + kPanelWidth);
    if (header.part != 0) {
        const int8_t* factors = reinterpret_cast<const int8_t*>(run) + part * kPanelWidth + lane;
        scale = scale * load_int8(factors);
        if (header.offset == QuantizedOffset::low) low = low * load_int8(factors + header.num_factors() * kPanelWidth);
    }
    if (header.offset == QuantizedOffset::zero) low = zero() - scale * low;
    if (header.center != 0) low = zero() - scale * broadcast(static_cast<float>(header.center));
    if (header.bits == 8) scale = scale * broadcast(header.float8 != 0 ? 0x1p8f : 0x1p-16f);
    return {scale, low};
}

}  // namespace pagecli::PAGECLI_ISA
