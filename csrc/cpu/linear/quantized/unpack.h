// From quantized weights (quantized_weight.h) to the numbers that the tiles of linear multiply, a stretch of k of some panels at a
// time, which stays in a core's cache while all rows of x pass over it.
#pragma once

#include "linear/quantized/group_scales.h"
#include "linear/quantized/look_up.h"
#include "linear/tiles/linear_tile.h"

namespace pagecli::PAGECLI_ISA {

// Vectors of rows from `lane` on of an even k and the next, in the layout of packed_weight.h.
PAGECLI_INLINE void store_two_k(float* to, int lane, VecF even, VecF odd) {
    store(to + lane, even);
    store(to + kPanelWidth + lane, odd);
}
PAGECLI_INLINE void store_two_k(uint16_t* to, int lane, VecF even, VecF odd) { store_pairs(to + 2 * lane, even, odd); }

template <class Number>
PAGECLI_INLINE void unpack_nibbles(Number* to, const uint8_t* run, int lane, const GroupScale& by, const Table& table) {
    PAGECLI_UNROLL
    for (int line = 0; line < 4; ++line) {
        VecI words = load_bytes(run + (line * kPanelWidth + lane) * 4);
        PAGECLI_UNROLL
        for (int pair = 0; pair < 4; ++pair) {
            const VecF even = look_up(table, words), odd = look_up(table, shift_right<16>(words));
            store_two_k(to, lane, fmadd(even, by.scale, by.low), fmadd(odd, by.scale, by.low));
            words = shift_right<4>(words);
            to += 2 * kPanelWidth;
        }
    }
}

template <class Number>
PAGECLI_INLINE void unpack_bytes(Number* to, const uint8_t* run, int lane, const GroupScale& by) {
    const int8_t* from = reinterpret_cast<const int8_t*>(run) + 2 * lane;
    const VecF scale = by.scale * broadcast(0x1p-16f);  // of numbers in upper halves
    for (int pair = 0; pair < kRunK / 2; ++pair, from += 2 * kPanelWidth, to += 2 * kPanelWidth) {
        const VecI both = load_int8_pairs(from);
        const VecF even = to_float(shift_left<16>(both)), odd = to_float(both & broadcast_int(static_cast<int32_t>(0xffff0000u)));
        store_two_k(to, lane, fmadd(even, scale, by.low), fmadd(odd, scale, by.low));
    }
}

// `num_groups` groups of one panel.
template <class Number, int BITS>
void unpack_groups(void* numbers, const uint8_t* groups, int64_t num_groups, const QuantizedHeader& header) {
    Number* to = static_cast<Number*>(numbers);
    const Table table = load_table(header.table);
    const int64_t runs = header.group / kRunK, scales_bytes = header.scales_bytes(), run_bytes = header.run_bytes();
    for (int64_t group = 0; group < num_groups; ++group, groups += header.group_bytes()) {
        for (int lane = 0; lane < kPanelWidth; lane += VecF::width) {
            const GroupScale by = load_scale(groups, lane, header.offset);
            for (int64_t run = 0; run < runs; ++run) {
                const uint8_t* from = groups + scales_bytes + run * run_bytes;
                if constexpr (BITS == 4)
                    unpack_nibbles(to + run * kRunK * kPanelWidth, from, lane, by, table);
                else
                    unpack_bytes(to + run * kRunK * kPanelWidth, from, lane, by);
            }
        }
        to += header.group * kPanelWidth;
    }
}

// Numbers of 8 bits themselves as bfloat16, without scales: for tile_quantized.h.
static inline void unpack_bytes_as_pairs(void* numbers, const uint8_t* groups, int64_t num_groups, const QuantizedHeader& header) {
    char* to = static_cast<char*>(numbers);
    const int64_t numbers_bytes = header.group_bytes() - header.scales_bytes();
    for (int64_t group = 0; group < num_groups; ++group) {
        groups += header.scales_bytes();
        for (int64_t at = 0; at < numbers_bytes; at += 2 * VecF::width) {
            const VecF pairs = from_bits(pairs_of_bytes(reinterpret_cast<const int8_t*>(groups + at)));
            memcpy(to + 2 * at, &pairs, sizeof pairs);
        }
        to += 2 * numbers_bytes;
        groups += numbers_bytes;
    }
}

using UnpackFunction = void (*)(void* numbers, const uint8_t* groups, int64_t num_groups, const QuantizedHeader& header);

static inline UnpackFunction unpack_function(const QuantizedHeader& header, int64_t bytes_per_k) {
    const bool pairs = bytes_per_k == 2 * kPanelWidth;
    if (header.bits == 4) return pairs ? unpack_groups<uint16_t, 4> : unpack_groups<float, 4>;
    return pairs ? unpack_groups<uint16_t, 8> : unpack_groups<float, 8>;
}

}  // namespace pagecli::PAGECLI_ISA
