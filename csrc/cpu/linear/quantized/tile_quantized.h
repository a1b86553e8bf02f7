// The tile of linear for quantized weights where pairs of bfloat16 are multiplied and few rows of x share the work: weights are made
// in registers, those that unpack.h makes, and multiplied and summed as tile_bfloat16_pairs does, so that a row's bits are the same:
// by vdpbf16ps, or as floats (pair_products.h).
#pragma once

#include "linear/quantized/numbers.h"
#include "linear/tiles/linear_tile.h"

namespace pagecli::PAGECLI_ISA {

// Pairs `pair` up to `last` of a run, `q` of the first panel, others `stride` bytes further. x has cells of floats, or of pairs.
template <int bits, int pair, int last, bool widened, int ROWS, int VECTORS>
PAGECLI_INLINE void multiply_pairs(VecF (&sum)[ROWS][VECTORS], const uint8_t* q, int64_t stride, const RunScale (&by)[VECTORS],
                                   const uint32_t* x, const Table& table) {
    const auto weights = [&](int v) __attribute__((always_inline)) {
        const int lane = v % kVectorsPerPanel * VecF::width;
        return by[v].template weights<bits, pair>(q + v / kVectorsPerPanel * stride, lane, table);
    };
    const auto cell = [=](int at) __attribute__((always_inline)) { return broadcast_int(static_cast<int32_t>(x[at])); };
    if constexpr (widened) {
        const uint32_t* const next = x + 2 * pair * ROWS;
        const auto read_x = [=](int r) __attribute__((always_inline)) {
            float value;
            memcpy(&value, next + r, sizeof value);
            return broadcast(value);
        };
        const auto read_x2 = [=](int r) __attribute__((always_inline)) { return read_x(ROWS + r); };
        outer_product(sum, read_x, [&](int v) __attribute__((always_inline)) { return rounded(weights(v).odd); }, accumulate);
        outer_product(sum, read_x2, [&](int v) __attribute__((always_inline)) { return rounded(weights(v).even); }, accumulate);
    } else {
        outer_product(
            sum, [=](int r) { return cell(pair * ROWS + r); },
            [&](int v) __attribute__((always_inline)) {
                const Pair both = weights(v);
                return round_to_pairs(both.even, both.odd);
            },
            accumulate_pairs);
    }
    if constexpr (pair + 1 < last) multiply_pairs<bits, pair + 1, last, widened>(sum, q, stride, by, x, table);
}

template <int VECTORS>
PAGECLI_INLINE void load_scales(RunScale (&by)[VECTORS], const QuantizedHeader& header, const uint8_t* group, const uint8_t* run,
                                int64_t stride, int part) {
    PAGECLI_UNROLL
    for (int v = 0; v < VECTORS; ++v) {
        const int64_t panel = v / kVectorsPerPanel * stride;
        by[v] = scale_of(header, group + panel, run + panel, part, v % kVectorsPerPanel * VecF::width);
    }
}

template <int bits, bool widened, int ROWS, int PANELS>
void tile_quantized(const TileArgs& t) {
    constexpr int kVectors = PANELS * kVectorsPerPanel, kHalf = kRunPairs / 2, kCells = widened ? 2 * kRunPairs : kRunPairs;
    const QuantizedHeader& header = *t.quantized;
    const int64_t run_bytes = header.run_bytes(), stride = t.panel_stride;
    const Table table = load_table(header.table);
    const uint8_t* group = static_cast<const uint8_t*>(t.weight);
    const uint32_t* x = static_cast<const uint32_t*>(t.x);
    TileSums<ROWS, PANELS> sums;
    sums.start(t);
    for (int64_t k = 0; k < t.k_count;) {
        const uint8_t* run = group + header.scales_bytes();
        for (const int64_t end = k + header.group; k < end; k += kRunK, run += run_bytes, x += kCells * ROWS) {
            for (int64_t at = 0; at < run_bytes; at += 64) {
                PAGECLI_UNROLL
                for (int p = 0; p < PANELS; ++p) __builtin_prefetch(run + (PANELS + p) * stride + at, 0, 2);  // the next panels
            }
            const uint8_t* q = run + header.factors_bytes();
            RunScale by[kVectors];
            load_scales(by, header, group, run, stride, 0);
            multiply_pairs<bits, 0, kHalf, widened>(sums.sum, q, stride, by, x, table);
            if (header.part == kRunK / 2) load_scales(by, header, group, run, stride, 1);
            multiply_pairs<bits, kHalf, kRunPairs, widened>(sums.sum, q, stride, by, x, table);
        }
        group = run;
    }
    sums.finish(t);
}

template <bool widened>
struct QuantizedTiles {
    template <int ROWS, int PANELS>
    struct Nibbles {
        static void run(const TileArgs& t) { tile_quantized<4, widened, ROWS, PANELS>(t); }
    };

    template <int bits>
    static Tiles of_one_row() {
        static constexpr TileFunction entries[1][2] = {
            {tile_quantized<bits, widened, 1, 1>, tile_quantized<bits, widened, 1, wide_panels(1)>}};
        return {entries, 1, wide_panels};
    }

    // Of 4 bits for any rows, of others for one: each takes a compiler a second or more.
    static Tiles of(int numbers) {
        switch (numbers) {
            case 2: return of_one_row<2>();
            case 3: return of_one_row<3>();
            case 4: return TileTable<Nibbles>::tiles();
            case 5: return of_one_row<5>();
            case 6: return of_one_row<6>();
            case kFloat8: return of_one_row<kFloat8>();
            default: return of_one_row<8>();
        }
    }
};

}  // namespace pagecli::PAGECLI_ISA
