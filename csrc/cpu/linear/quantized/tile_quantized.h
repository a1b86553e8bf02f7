// The tiles of linear for quantized weights that few rows of x share: weights are made in registers, those that unpack.h makes, and
// multiplied and summed as the tiles of unpacked ones do, so that a row's bits are the same: as floats, or by vdpbf16ps.
#pragma once

#include <type_traits>

#include "isa/matrix_unit.h"
#include "linear/quantized/numbers.h"
#include "linear/quantized/unpack.h"
#include "linear/tiles/linear_tile.h"

namespace pagecli::PAGECLI_ISA {

// Not with a matrix unit, which takes rows by 16; nor for the plain C++, whose compilation they would double.
template <class Weight>
constexpr bool has_quantized_tiles =
#if PAGECLI_HAS_MATRIX_UNIT || !(defined(__AVX2__) || defined(PAGECLI_NEON))
    false;
#else
    !has_pair_dot || !std::is_same_v<Weight, float>;
#endif

// Of x.
template <class Weight>
constexpr int kCellsPerPair = std::is_same_v<Weight, uint16_t> ? 1 : 2;

// What a tile multiplies of a run: `q` of the first panel, others `stride` bytes further.
template <int VECTORS>
struct RunOf {
    const uint8_t* q;
    int64_t stride;
    RunScale by[VECTORS];

    static constexpr int lane(int v) { return v % kVectorsPerPanel * VecF::width; }
    [[gnu::always_inline]] void load_scales(const QuantizedHeader& header, const uint8_t* group, const uint8_t* run, int part, float unit,
                                            float times) {
        PAGECLI_UNROLL
        for (int v = 0; v < VECTORS; ++v) {
            const int64_t panel = v / kVectorsPerPanel * stride;
            by[v] = scale_of(header, group + panel, run + panel, part, lane(v)).times(unit, times);
        }
    }
};

PAGECLI_INLINE VecF read_float(const uint32_t* x) {
    float value;
    memcpy(&value, x, sizeof value);
    return broadcast(value);
}

// Pairs `pair` up to the last of an octet, `eight` of each vector.
template <class Weight, int pair, class Eight, int ROWS, int VECTORS>
PAGECLI_INLINE void multiply_pairs(VecF (&sum)[ROWS][VECTORS], const Eight (&eight)[VECTORS], const RunScale (&by)[VECTORS],
                                   const uint32_t* x, const Table& table) {
    const auto weights = [&](int v) __attribute__((always_inline)) { return by[v].weights(eight[v].template numbers<pair>(table)); };
    if constexpr (std::is_same_v<Weight, uint16_t>) {
        outer_product(
            sum, [=](int r) { return broadcast_int(static_cast<int32_t>(x[pair * ROWS + r])); },
            [&](int v) __attribute__((always_inline)) {
                const Pair both = weights(v);
                return round_to_pairs(both.even, both.odd);
            },
            accumulate_pairs);
    } else {
        constexpr bool odd_first = std::is_same_v<Weight, SplitFloat>;
        const uint32_t* const next = x + 2 * pair * ROWS;
        const auto read_x = [=](int r) __attribute__((always_inline)) { return read_float(next + r); };
        const auto read_x2 = [=](int r) __attribute__((always_inline)) { return read_float(next + ROWS + r); };
        const auto first = [&](int v) __attribute__((always_inline)) {
            return made_of<Weight>(odd_first ? weights(v).odd : weights(v).even);
        };
        const auto second = [&](int v) __attribute__((always_inline)) {
            return made_of<Weight>(odd_first ? weights(v).even : weights(v).odd);
        };
        outer_product(sum, read_x, first, accumulate);
        outer_product(sum, read_x2, second, accumulate);
    }
    if constexpr (pair < 3) multiply_pairs<Weight, pair + 1>(sum, eight, by, x, table);
}

// Octets `octet` and the next of a run.
template <class Weight, int bits, int octet, int ROWS, int VECTORS>
PAGECLI_INLINE void multiply_octets(VecF (&sum)[ROWS][VECTORS], const RunOf<VECTORS>& run, const uint32_t* x, const Table& table) {
    Octet<bits, octet> eight[VECTORS];
    PAGECLI_UNROLL
    for (int v = 0; v < VECTORS; ++v) eight[v].read(run.q + v / kVectorsPerPanel * run.stride, run.lane(v), table);
    multiply_pairs<Weight, 0>(sum, eight, run.by, x + octet * 4 * kCellsPerPair<Weight> * ROWS, table);
    if constexpr (octet % 2 == 0) multiply_octets<Weight, bits, octet + 1>(sum, run, x, table);
}

// Adds to `sums` the products of the runs of Sums::kPanels panels with x, which has Sums::kCells cells for a run.
template <int bits, class Sums>
PAGECLI_INLINE void sum_runs(const TileArgs& t, Sums& sums) {
    constexpr int kPanels = Sums::kPanels;
    const QuantizedHeader& header = *t.quantized;
    const int64_t run_bytes = header.run_bytes(), stride = t.panel_stride;
    const Table table = load_table(header.table);
    const float unit = unit_of<bits>(table);
    const uint8_t* group = static_cast<const uint8_t*>(t.weight);
    const uint32_t* x = static_cast<const uint32_t*>(t.x);
    for (int64_t k = 0; k < t.k_count;) {
        const uint8_t* run = group + header.scales_bytes();
        for (const int64_t end = k + header.group; k < end; k += kRunK, run += run_bytes, x += Sums::kCells) {
            for (int64_t at = 0; at < run_bytes; at += 64) {
                PAGECLI_UNROLL
                for (int p = 0; p < kPanels; ++p) __builtin_prefetch(run + (kPanels + p) * stride + at, 0, 2);  // the next panels
            }
            RunOf<kPanels * kVectorsPerPanel> of_run = {run + header.factors_bytes(), stride, {}};
            sums.start_run();
            of_run.load_scales(header, group, run, 0, unit, Sums::kTimes);
            sums.template add_octets<bits, 0>(of_run, x, table);
            if (header.part == kRunK / 2) of_run.load_scales(header, group, run, 1, unit, Sums::kTimes);
            sums.template add_octets<bits, 2>(of_run, x, table);
            sums.end_run();
        }
        group = run;
    }
}

// Weight: what unpack.h would make of the numbers.
template <class Weight, int ROWS, int PANELS>
struct QuantizedSums : TileSums<ROWS, PANELS> {
    static constexpr int kPanels = PANELS, kCells = kRunPairs * kCellsPerPair<Weight> * ROWS;
    static constexpr auto kTimes = times_of<Weight>;

    [[gnu::always_inline]] void start_run() {}
    [[gnu::always_inline]] void end_run() {}
    template <int bits, int octet, int VECTORS>
    [[gnu::always_inline]] void add_octets(const RunOf<VECTORS>& run, const uint32_t* x, const Table& table) {
        multiply_octets<Weight, bits, octet>(this->sum, run, x, table);
    }
};

template <class Weight, int bits, int ROWS, int PANELS>
void tile_quantized(const TileArgs& t) {
    QuantizedSums<Weight, ROWS, PANELS> sums;
    sums.start(t);
    sum_runs<bits>(t, sums);
    sums.finish(t);
}

// A panel alone of AVX2 leaves registers for what eight k of it need.
constexpr int quantized_wide_panels(int rows) { return has_pair_dot ? wide_panels(rows) : 1; }

template <class Weight>
struct QuantizedTiles {
    template <int ROWS, int PANELS>
    struct Nibbles {
        static void run(const TileArgs& t) { tile_quantized<Weight, 4, ROWS, PANELS>(t); }
    };

    template <int bits>
    static Tiles of_one_row() {
        static constexpr TileFunction entries[1][2] = {
            {tile_quantized<Weight, bits, 1, 1>, tile_quantized<Weight, bits, 1, quantized_wide_panels(1)>}};
        return {entries, 1, quantized_wide_panels};
    }
    static Tiles of_nibbles() {
        if constexpr (has_pair_dot)
            return TileTable<Nibbles>::tiles();
        else
            return of_one_row<4>();
    }

    // Of 4 bits for any rows where pairs are multiplied, of others for one: each takes a compiler a second or more.
    static Tiles of(int numbers) {
        switch (numbers) {
            case 2: return of_one_row<2>();
            case 3: return of_one_row<3>();
            case 4: return of_nibbles();
            case 5: return of_one_row<5>();
            case 6: return of_one_row<6>();
            case kFloat8: return of_one_row<kFloat8>();
            default: return of_one_row<8>();
        }
    }
};

}  // namespace pagecli::PAGECLI_ISA
