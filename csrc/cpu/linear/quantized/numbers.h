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

// Eight k of a run, pairs 4 * octet and on, of the rows from a lane on. Numbers: n, or parts of q (unit_of).
template <int bits, int octet>
struct Octet {
    const uint8_t* words;

    [[gnu::always_inline]] void read(const uint8_t* q, int lane, const Table&) { words = q + 4 * lane; }
    template <int pair>
    [[gnu::always_inline]] Pair numbers(const Table&) const {
        constexpr int first = first_plane(bits), at = 4 * octet + pair;
        VecI both = field_of<first, at, 0>(words);
        if constexpr (bits > first) both = both | field_of<bits - first, at, first>(words + first * kPanelWidth * 4);
        return {to_float(both & broadcast_int(0xffff)), to_float(shift_right<16>(both))};
    }
};

template <int octet>
struct Octet<4, octet> {
    Nibbles nibbles;

    [[gnu::always_inline]] void read(const uint8_t* q, int lane, const Table& table) {
        nibbles = nibbles_of(table, load_bytes(q + (octet * kPanelWidth + lane) * 4));
    }
    template <int pair>
    [[gnu::always_inline]] Pair numbers(const Table& table) const {
        return {look_up<4 * pair>(table, nibbles), look_up<4 * pair + 16>(table, nibbles)};
    }
};

template <int octet>
struct Octet<8, octet> {
    const int8_t* pairs;

    [[gnu::always_inline]] void read(const uint8_t* q, int lane, const Table&) {
        pairs = reinterpret_cast<const int8_t*>(q) + octet * 8 * kPanelWidth + 2 * lane;
    }
    template <int pair>
    [[gnu::always_inline]] Pair numbers(const Table&) const {
        const VecI both = load_int8_pairs(pairs + pair * 2 * kPanelWidth);
        return {to_float(shift_left<16>(both)), to_float(both & broadcast_int(static_cast<int32_t>(0xffff0000u)))};
    }
};

template <int octet>
struct Octet<kFloat8, octet> {
    const uint8_t* bytes;

    [[gnu::always_inline]] void read(const uint8_t* q, int lane, const Table&) { bytes = q + octet * 8 * kPanelWidth + lane; }
    template <int pair>
    [[gnu::always_inline]] Pair numbers(const Table&) const {
        return {load_float8(bytes + pair * 2 * kPanelWidth), load_float8(bytes + (pair * 2 + 1) * kPanelWidth)};
    }
};

// What an Octet's 1 stands for.
template <int bits>
PAGECLI_INLINE float unit_of(const Table& table) {
    return bits == 4 ? table.unit : bits == 8 ? 0x1p-16f : bits == kFloat8 ? 0x1p8f : 1.0f;
}

// A weight is scale * q + low, which rounds once: the product has at most 24 bits, or nothing is added.
struct RunScale {
    VecF scale, low;

    [[gnu::always_inline]] RunScale times(float unit, float both) const {
        return {scale * broadcast(unit * both), low * broadcast(both)};
    }
    [[gnu::always_inline]] Pair weights(const Pair& q) const { return {fmadd(q.even, scale, low), fmadd(q.odd, scale, low)}; }
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
    return {scale, low};
}

}  // namespace pagecli::PAGECLI_ISA
