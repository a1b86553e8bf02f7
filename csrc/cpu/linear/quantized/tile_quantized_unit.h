// The tile of linear for one row of x and quantized weights where a matrix unit multiplies bfloat16: weights are made in registers, and
// summed as the unit sums them, so that a row's bits are those it has in a batch. Of each 32 k the products at even k are summed
// from zero and those at odd k, then both together, then onto the sums so far (matrix_unit.h), denormals being zeros.
#pragma once

#include "isa/matrix_unit.h"
#include "linear/quantized/tile_quantized.h"

namespace pagecli::PAGECLI_ISA {

#if PAGECLI_HAS_MATRIX_UNIT && defined(__AVX512F__)  // under an emulator such a row is unpacked, to the same bits
#define PAGECLI_HAS_UNIT_ROW_TILES 1
#else
#define PAGECLI_HAS_UNIT_ROW_TILES 0
#endif

#if PAGECLI_HAS_UNIT_ROW_TILES

constexpr int kUnitRowPanels = 4;
constexpr int unit_row_wide_panels(int) { return kUnitRowPanels; }

// Of a run, the products' sums at even and at odd k.
template <int VECTORS>
struct ChunkSums {
    VecF even[VECTORS], odd[VECTORS];
};

// Pairs `pair` up to the last of an octet.
template <int pair, class Eight, int VECTORS>
PAGECLI_INLINE void add_pairs(ChunkSums<VECTORS>& sums, const Eight (&eight)[VECTORS], const RunScale (&by)[VECTORS], const uint32_t* x,
                              const Table& table) {
    const VecI both = broadcast_int(static_cast<int32_t>(x[pair]));
    const VecF even = widen_low(both), odd = widen_high(both);
    PAGECLI_UNROLL
    for (int v = 0; v < VECTORS; ++v) {
        const Pair weights = by[v].weights(eight[v].template numbers<pair>(table));
        accumulate(sums.even[v], even, made_of<RoundedFloat>(weights.even));
        accumulate(sums.odd[v], odd, made_of<RoundedFloat>(weights.odd));
    }
    if constexpr (pair < 3) add_pairs<pair + 1>(sums, eight, by, x, table);
}

// Octets `octet` and the next of a run.
template <int bits, int octet, int VECTORS>
PAGECLI_INLINE void add_octets(ChunkSums<VECTORS>& sums, const RunOf<VECTORS>& run, const uint32_t* x, const Table& table) {
    Octet<bits, octet> eight[VECTORS];
    PAGECLI_UNROLL
    for (int v = 0; v < VECTORS; ++v) eight[v].read(run.q + v / kVectorsPerPanel * run.stride, run.lane(v), table);
    add_pairs<0>(sums, eight, run.by, x + octet * 4, table);
    if constexpr (octet % 2 == 0) add_octets<bits, octet + 1>(sums, run, x, table);
}

template <int bits, int PANELS>
void tile_quantized_unit_row(const TileArgs& t) {
    constexpr int kVectors = PANELS * kVectorsPerPanel;
    const QuantizedHeader& header = *t.quantized;
    const int64_t run_bytes = header.run_bytes(), stride = t.panel_stride;
    const Table table = load_table(header.table);
    const float unit = unit_of<bits>(table);
    const uint8_t* group = static_cast<const uint8_t*>(t.weight);
    const uint32_t* x = static_cast<const uint32_t*>(t.x);
    TileSums<1, PANELS> sums;
    sums.start(t);
    for (int64_t k = 0; k < t.k_count;) {
        const uint8_t* run = group + header.scales_bytes();
        for (const int64_t end = k + header.group; k < end; k += kRunK, run += run_bytes, x += kRunPairs) {
            for (int64_t at = 0; at < run_bytes; at += 64) {
                PAGECLI_UNROLL
                for (int p = 0; p < PANELS; ++p) __builtin_prefetch(run + (PANELS + p) * stride + at, 0, 2);  // the next panels
            }
            RunOf<kVectors> of_run = {run + header.factors_bytes(), stride, {}};
            ChunkSums<kVectors> chunk;
            PAGECLI_UNROLL
            for (int v = 0; v < kVectors; ++v) chunk.even[v] = chunk.odd[v] = zero();
            of_run.load_scales(header, group, run, 0, unit, times_of<RoundedFloat>);
            add_octets<bits, 0>(chunk, of_run, x, table);
            if (header.part == kRunK / 2) of_run.load_scales(header, group, run, 1, unit, times_of<RoundedFloat>);
            add_octets<bits, 2>(chunk, of_run, x, table);
            PAGECLI_UNROLL
            for (int v = 0; v < kVectors; ++v) sums.sum[0][v] = sums.sum[0][v] + (chunk.even[v] + chunk.odd[v]);
        }
        group = run;
    }
    sums.finish(t);
}

template <int bits>
Tiles unit_row_tiles_of() {
    static constexpr TileFunction entries[1][2] = {{tile_quantized_unit_row<bits, 1>, tile_quantized_unit_row<bits, kUnitRowPanels>}};
    return {entries, 1, unit_row_wide_panels};
}

// For `numbers` of a header.
inline Tiles unit_row_tiles(int numbers) {
    switch (numbers) {
        case 2: return unit_row_tiles_of<2>();
        case 3: return unit_row_tiles_of<3>();
        case 4: return unit_row_tiles_of<4>();
        case 5: return unit_row_tiles_of<5>();
        case 6: return unit_row_tiles_of<6>();
        case kFloat8: return unit_row_tiles_of<kFloat8>();
        default: return unit_row_tiles_of<8>();
    }
}

#endif

}  // namespace pagecli::PAGECLI_ISA
