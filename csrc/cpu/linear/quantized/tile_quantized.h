// The tile of linear for quantized weights where pairs of bfloat16 are multiplied: numbers become bfloat16 in registers, which is
// exact, and are multiplied with x rounded to bfloat16; the sums of 32 k, times the scale, go onto the float sums, which rest in
// memory, and what is added to each weight goes there times the sum of x:
//
//   sum = fmadd(scale, sum over 32 k of q * x, fmadd(low, sum over 32 k of x, sum))
#pragma once

#include "linear/quantized/group_scales.h"
#include "linear/quantized/look_up.h"
#include "linear/tiles/linear_tile.h"

namespace pagecli::PAGECLI_ISA {

// How a tile gets its numbers: from 4 or 8 bits in registers or, where many rows share that work, unpacked before (unpack.h).
enum class Numbers { nibbles, bytes, unpacked };

constexpr int64_t kGroupsAhead = 1024;  // bytes of a panel, prefetched

// Where a run's pairs are read from, `stride` bytes apart from panel to panel.
struct RunReader {
    const uint8_t* run;
    int64_t stride;
    const PairTable& table;

    // Pair 4 line + j of vector v, j a template's so that a shift is an instruction of its own.
    template <Numbers numbers, int j>
    [[gnu::always_inline]] VecI pairs(int line, int v) const {
        if constexpr (numbers == Numbers::nibbles) {
            const VecI words = load_bytes(run + line * kPanelWidth * 4 + vector_offset(v, 4 * VecF::width, stride));
            return look_up_pairs(table, j == 0 ? words : shift_right<4 * j>(words));
        }
        const int pair = 4 * line + j;
        if constexpr (numbers == Numbers::bytes)
            return pairs_of_bytes(reinterpret_cast<const int8_t*>(run + pair * kPanelWidth * 2 + vector_offset(v, 2 * VecF::width, stride)));
        return load_bytes(run + pair * kPanelWidth * 4 + vector_offset(v, 4 * VecF::width, stride));
    }
};

template <Numbers numbers, int j, int ROWS, int VECTORS>
PAGECLI_INLINE void add_pair(VecF (&sum)[ROWS][VECTORS], const RunReader& reader, int line, const uint32_t* x) {
    const uint32_t* cells = x + (4 * line + j) * ROWS;
    outer_product(sum, [=](int r) { return broadcast_int(static_cast<int32_t>(cells[r])); },
                  [=](int v) { return reader.pairs<numbers, j>(line, v); }, accumulate_pairs);
}

template <Numbers numbers, int ROWS, int VECTORS>
PAGECLI_INLINE void sum_run(VecF (&sum)[ROWS][VECTORS], const RunReader& reader, const uint32_t* x) {
    PAGECLI_UNROLL
    for (int r = 0; r < ROWS; ++r) {
        PAGECLI_UNROLL
        for (int v = 0; v < VECTORS; ++v) sum[r][v] = zero();
    }
    PAGECLI_UNROLL
    for (int line = 0; line < 4; ++line) {
        add_pair<numbers, 0>(sum, reader, line, x);
        add_pair<numbers, 1>(sum, reader, line, x);
        add_pair<numbers, 2>(sum, reader, line, x);
        add_pair<numbers, 3>(sum, reader, line, x);
    }
}

// A run's sums onto the tile's, `group` where the first panel's scales are.
template <int ROWS, int VECTORS>
PAGECLI_INLINE void scale_run(const TileArgs& t, const VecF (&sum)[ROWS][VECTORS], const uint8_t* group, const float* x_sums,
                              bool is_first) {
    const QuantizedOffset offset = t.quantized->offset;
    PAGECLI_UNROLL
    for (int v = 0; v < VECTORS; ++v) {
        const GroupScale by =
            load_scale(group + v / kVectorsPerPanel * t.groups_stride, v % kVectorsPerPanel * VecF::width, offset);
        PAGECLI_UNROLL
        for (int r = 0; r < ROWS; ++r) {
            float* rest = t.sums + (r * VECTORS + v) * VecF::width;
            VecF total = is_first ? zero() : load(rest);
            if (offset != QuantizedOffset::none) total = fmadd(by.low, broadcast(x_sums[r]), total);
            store(rest, fmadd(by.scale, sum[r][v], total));
        }
    }
}

template <Numbers numbers, int ROWS, int PANELS>
void tile_quantized(const TileArgs& t) {
    constexpr int kVectors = PANELS * kVectorsPerPanel;
    const QuantizedHeader& header = *t.quantized;
    const int64_t run_bytes = header.run_bytes(), unpacked_bytes = kRunK * kPanelWidth * 2;
    const int64_t stride = numbers == Numbers::unpacked ? t.panel_stride : t.groups_stride;
    const PairTable table = load_pair_table(header.table);
    const uint8_t *group = t.groups, *unpacked = static_cast<const uint8_t*>(t.weight);
    const uint32_t* x = static_cast<const uint32_t*>(t.x);
    const float* x_sums = t.x_scale;
    if (t.k_count == 0) memset(t.sums, 0, sizeof(float) * ROWS * kVectors * VecF::width);
    for (int64_t k = 0; k < t.k_count; group += header.group_bytes()) {
        const uint8_t* run = group + header.scales_bytes();
        for (const int64_t end = k + header.group; k < end; k += kRunK) {
            VecF sum[ROWS][kVectors];
            for (int64_t at = 0; numbers != Numbers::unpacked && t.prefetch_step > 0 && at < run_bytes; at += 64) {
                PAGECLI_UNROLL
                for (int p = 0; p < PANELS; ++p) __builtin_prefetch(run + p * stride + kGroupsAhead + at, 0, 3);
            }
            sum_run<numbers>(sum, {numbers == Numbers::unpacked ? unpacked : run, stride, table}, x);
            scale_run(t, sum, group, x_sums, t.first && k == 0);
            run += run_bytes;
            unpacked += unpacked_bytes;
            x += kRunK / 2 * ROWS;
            x_sums += ROWS;
        }
    }
}

template <int ROWS, int PANELS>
struct NibblesTile {
    static void run(const TileArgs& t) { tile_quantized<Numbers::nibbles, ROWS, PANELS>(t); }
};
template <int ROWS, int PANELS>
struct QuantizedBytesTile {
    static void run(const TileArgs& t) { tile_quantized<Numbers::bytes, ROWS, PANELS>(t); }
};
template <int ROWS, int PANELS>
struct UnpackedTile {
    static void run(const TileArgs& t) { tile_quantized<Numbers::unpacked, ROWS, PANELS>(t); }
};

}  // namespace pagecli::PAGECLI_ISA
