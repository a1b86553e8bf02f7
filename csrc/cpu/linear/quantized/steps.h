// Numbers of 4 bits in equal steps, n or n - 8 of them (GGUF's Q4_0, Q4_1, Q4_K, GPTQ, AWQ), on AVX2: instead of being looked up, n stays
// where it lies in its word, 4 bits further up for each pair, and is multiplied by a scale that is that much smaller. Weights and sums
// have the bits that numbers.h and tile_quantized.h give them. 8 weights of 576 x 3,072 times one row take a core of Zen 3 0.72 ns
// where looked up ones take 0.86, in float32 0.52 and 0.68.
#pragma once

#include "linear/quantized/tile_quantized.h"
#include "linear/quantized/unpack.h"

namespace pagecli::PAGECLI_ISA {

#if defined(__AVX2__) && !defined(__AVX512F__)

constexpr int kOctetPairs = 4, kRunOctets = kRunPairs / kOctetPairs;

// Whether every weight is a step * n + low with a product and a low that are exact.
inline bool has_steps(const QuantizedHeader& header) {
    const float first = header.table[0], step = header.table[1] - first;
    int exponent;
    bool equal = header.bits == 4 && header.part != kRunK / 2 && __builtin_frexpf(step, &exponent) == 0.5f;
    equal &= first == 0.0f || (first == -8.0f * step && header.offset == QuantizedOffset::none);
    for (int n = 0; n < 16; ++n) equal &= header.table[n] == first + static_cast<float>(n) * step;
    return equal;
}

// Whether scales, and lows, are halves and all there is.
inline bool has_plain_scales(const QuantizedHeader& header) {
    return header.wide == 0 && header.part == 0 && header.offset != QuantizedOffset::zero && header.table[0] == 0.0f;
}

// Of a whole weight, `times` its own.
struct Steps {
    VecF by[kOctetPairs], first, times;
    bool has_low;

    Steps(const QuantizedHeader& header, float times_all)
        : first(broadcast(header.table[0] * times_all)), times(broadcast(times_all)), has_low(header.offset == QuantizedOffset::low) {
        float step = (header.table[1] - header.table[0]) * times_all;
        for (VecF& pair : by) {
            pair = broadcast(step);
            step *= 0x1p-4f;
        }
    }
};

// Of the rows from a lane on: what a pair's n are multiplied by, where they lie.
struct StepScale {
    VecF scale[kOctetPairs], low;

    template <bool is_plain>
    [[gnu::always_inline]] void load_from(const QuantizedHeader& header, const uint8_t* group, const uint8_t* run, int lane,
                                          const Steps& steps) {
        RunScale of_run;
        if constexpr (is_plain) {
            const uint16_t* halves = reinterpret_cast<const uint16_t*>(group) + lane;
            of_run.scale = load_f16(halves);
            low = steps.has_low ? load_f16(halves + kPanelWidth) * steps.times : zero();
        } else {
            of_run = scale_of(header, group, run, 0, lane);
            low = fmadd(of_run.scale, steps.first, of_run.low * steps.times);
        }
        PAGECLI_UNROLL
        for (int pair = 0; pair < kOctetPairs; ++pair) scale[pair] = of_run.scale * steps.by[pair];
    }

    [[gnu::always_inline]] VecF weight(VecI words, int pair) const {
        return fmadd(to_float(words & broadcast_int(15 << 4 * pair)), scale[pair], low);
    }
};

// Eight k, whose words begin at q.
template <class Weight, int ROWS, int VECTORS>
PAGECLI_INLINE void multiply_octet(VecF (&sum)[ROWS][VECTORS], const StepScale (&by)[VECTORS], const uint8_t* q, int64_t stride,
                                   const uint32_t* x) {
    VecI even[VECTORS], odd[VECTORS];
    PAGECLI_UNROLL
    for (int v = 0; v < VECTORS; ++v) {
        even[v] = load_bytes(q + vector_offset(v, 4 * VecF::width, stride));
        odd[v] = shift_right<16>(even[v]);
    }
    PAGECLI_UNROLL
    for (int pair = 0; pair < kOctetPairs; ++pair, x += 2 * ROWS) {
        const auto made = [&](VecI words, int v) __attribute__((always_inline)) { return made_of<Weight>(by[v].weight(words, pair)); };
        outer_product(sum, [=](int r) { return read_float(x + r); },
                      [&](int v) __attribute__((always_inline)) { return made(even[v], v); }, accumulate);
        outer_product(sum, [=](int r) { return read_float(x + ROWS + r); },
                      [&](int v) __attribute__((always_inline)) { return made(odd[v], v); }, accumulate);
    }
}

// Two chains of sums for each row and panel, and registers for what makes their weights.
template <class Weight, bool is_plain, int ROWS, int PANELS>
void tile_steps(const TileArgs& t) {
    constexpr int64_t kLine = 64;
    constexpr int kVectors = PANELS * kVectorsPerPanel;
    const QuantizedHeader& header = *t.quantized;
    const Steps steps(header, times_of<Weight>);
    const int64_t run_bytes = header.run_bytes(), factors_bytes = header.factors_bytes(), scales_bytes = header.scales_bytes();
    const int64_t stride = t.panel_stride;
    const uint8_t* group = static_cast<const uint8_t*>(t.weight);
    const uint32_t* x = static_cast<const uint32_t*>(t.x);
    TileSums<ROWS, PANELS> sums;
    sums.start(t);
    for (int64_t k = 0; k < t.k_count;) {
        const uint8_t *run = group + scales_bytes, *next = group + PANELS * stride;  // of the panel that comes next
        for (const int64_t end = k + header.group; k < end; k += kRunK, run += run_bytes) {
            for (; next < run + run_bytes + PANELS * stride; next += kLine) {
                PAGECLI_UNROLL
                for (int p = 0; p < PANELS; ++p) __builtin_prefetch(next + p * stride, 0, 2);
            }
            StepScale by[kVectors];
            PAGECLI_UNROLL
            for (int v = 0; v < kVectors; ++v) {
                const int64_t panel = v / kVectorsPerPanel * stride;
                by[v].template load_from<is_plain>(header, group + panel, run + panel, v % kVectorsPerPanel * VecF::width, steps);
            }
            __asm__ volatile("" ::: "memory");  // scales are read from memory from here on, registers being few
            PAGECLI_UNROLL
            for (int octet = 0; octet < kRunOctets; ++octet, x += 2 * kOctetPairs * ROWS)
                multiply_octet<Weight>(sums.sum, by, run + factors_bytes + octet * kPanelWidth * 4, stride, x);
        }
        group = run;
    }
    sums.finish(t);
}

// As unpack_groups.
template <class Weight, bool is_plain>
void unpack_steps(void* weights, const uint8_t* group, int64_t num_groups, const QuantizedHeader& header, int64_t ahead) {
    Weight* to = static_cast<Weight*>(weights);
    const Steps steps(header, times_of<Weight>);
    const int64_t scales_bytes = header.scales_bytes(), factors_bytes = header.factors_bytes(), run_bytes = header.run_bytes();
    for (int64_t i = 0; i < num_groups; ++i) {
        const uint8_t* run = group + scales_bytes;
        for (int64_t k = 0; k < header.group; k += kRunK, run += run_bytes, to += kRunK * kPanelWidth) {
            for (int64_t at = 0; at < run_bytes; at += 64) __builtin_prefetch(run + ahead + at, 0, 2);
            PAGECLI_UNROLL
            for (int lane = 0; lane < kPanelWidth; lane += VecF::width) {
                StepScale by;
                by.template load_from<is_plain>(header, group, run, lane, steps);
                PAGECLI_UNROLL
                for (int octet = 0; octet < kRunOctets; ++octet) {
                    const VecI even = load_bytes(run + factors_bytes + (octet * kPanelWidth + lane) * 4), odd = shift_right<16>(even);
                    PAGECLI_UNROLL
                    for (int pair = 0; pair < kOctetPairs; ++pair)
                        store_pair(to + (octet * kOctetPairs + pair) * 2 * kPanelWidth, lane,
                                   {by.weight(even, pair), by.weight(odd, pair)});
                }
            }
        }
        group = run;
    }
}

// Panels at once: of rounded weights two would leave too few registers.
template <class Weight>
constexpr int step_panels(int rows) { return rows == 1 && !is_rounded_float<Weight> ? 2 : 1; }

// For one row and two: more rows' sums leave too few registers, and gcc 12 keeps what it makes in memory.
template <class Weight, bool is_plain>
struct StepTiles {
    static constexpr TileFunction kTwoRows = tile_steps<Weight, is_plain, 2, 1>;
    static constexpr TileFunction entries[2][2] = {
        {tile_steps<Weight, is_plain, 1, 1>, tile_steps<Weight, is_plain, 1, step_panels<Weight>(1)>}, {kTwoRows, kTwoRows}};
    static constexpr Tiles tiles() { return {entries, 2, step_panels<Weight>}; }
};

// Both functions for a weight with steps.
template <class Weight>
void use_steps(const QuantizedHeader& header, UnpackFunction* unpack, Tiles* of_few_rows) {
    const bool is_plain = has_plain_scales(header);
    *unpack = is_plain ? unpack_steps<Weight, true> : unpack_steps<Weight, false>;
    *of_few_rows = is_plain ? StepTiles<Weight, true>::tiles() : StepTiles<Weight, false>::tiles();
}

#else

inline bool has_steps(const QuantizedHeader&) { return false; }
template <class Weight>
void use_steps(const QuantizedHeader&, UnpackFunction*, Tiles*) {}

#endif

}  // namespace pagecli::PAGECLI_ISA
