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

template <int PANELS>
struct UnitRowSums : TileSums<1, PANELS> {
    static constexpr int kPanels = PANELS, kCells = kRunPairs;
    using TileSums<1, PANELS>::kVectors;
    static constexpr auto kTimes = times_of<RoundedFloat>;
    VecF even[kVectors], odd[kVectors];  // of a run, the products' sums at even and at odd k

    [[gnu::always_inline]] void start_run() {
        PAGECLI_UNROLL
        for (int v = 0; v < kVectors; ++v) even[v] = odd[v] = zero();
    }
    [[gnu::always_inline]] void end_run() {
        PAGECLI_UNROLL
        for (int v = 0; v < kVectors; ++v) this->sum[0][v] = this->sum[0][v] + (even[v] + odd[v]);
    }
    // Octets `octet` and the next of a run.
    template <int bits, int octet>
    [[gnu::always_inline]] void add_octets(const RunOf<kVectors>& run, const uint32_t* x, const Table& table) {
        Octet<bits, octet> eight[kVectors];
        PAGECLI_UNROLL
        for (int v = 0; v < kVectors; ++v) eight[v].read(run.q + v / kVectorsPerPanel * run.stride, run.lane(v), table);
        add_pairs<0>(eight, run.by, x + octet * 4, table);
        if constexpr (octet % 2 == 0) add_octets<bits, octet + 1>(run, x, table);
    }

  private:
    // Pairs `pair` up to the last of an octet.
    template <int pair, class Eight>
    [[gnu::always_inline]] void add_pairs(const Eight (&eight)[kVectors], const RunScale (&by)[kVectors], const uint32_t* x, const Table& table) {
        const VecI both = broadcast_int(static_cast<int32_t>(x[pair]));
        const VecF x_even = widen_low(both), x_odd = widen_high(both);
        PAGECLI_UNROLL
        for (int v = 0; v < kVectors; ++v) {
            const Pair weights = by[v].weights(eight[v].template numbers<pair>(table));
            accumulate(even[v], x_even, made_of<RoundedFloat>(weights.even));
            accumulate(odd[v], x_odd, made_of<RoundedFloat>(weights.odd));
        }
        if constexpr (pair < 3) add_pairs<pair + 1>(eight, by, x, table);
    }
};

template <int bits, int PANELS>
void tile_quantized_unit_row(const TileArgs& t) {
    UnitRowSums<PANELS> sums;
    sums.start(t);
    sum_runs<bits>(t, sums);
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
