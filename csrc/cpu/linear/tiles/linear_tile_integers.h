// The tiles of linear for integers: exact sums over a group of 64 k in registers, then scaled and added to the float sums, which
// rest in memory. A kind of weights says what a step multiplies:
//
//   kSteps        steps a group; kStepsPerLine of them read 64 bytes of a panel, kCells cells of a row of x each
//   kScales       x's scales a group: a second one is where a sum starts, in bits (linear_activations.h)
//   weight(i, v)  step i's integers of vector v of a tile, which is vector v % kVectorsPerPanel of panel v / kVectorsPerPanel
//   scale(v)      what x's scale is multiplied by
//   add(sum, x, weight), x of x_of(cells); scaled(sum, scale, float sum)
#pragma once

#include "isa/quads.h"
#include "linear_tile.h"

namespace pagecli::PAGECLI_ISA {

// As wide_panels: other registers than the sums' hold a weight, x and products; those of bytes more than those of 16-bit pairs.
constexpr int kMaxByteRows = VecF::width == 16 ? 6 : 5;
constexpr int integer_wide_panels(int rows) {
    if (VecF::width == 16) return 4;
    return rows == 1 ? 4 : rows == 2 ? 2 : 1;
}

// Weights in groups with a scale for each of their rows.
template <class Group>
struct GroupReader {
    const Group* group;
    int64_t panel_stride;

    explicit GroupReader(const TileArgs& t) : group(static_cast<const Group*>(t.weight)), panel_stride(t.panel_stride) {}
    [[gnu::always_inline]] const Group& panel(int v) const { return group[v / kVectorsPerPanel * panel_stride]; }
    static constexpr int lane(int v) { return v % kVectorsPerPanel * VecF::width; }

    [[gnu::always_inline]] VecF scale(int v) const { return load(panel(v).scale + lane(v)); }
    [[gnu::always_inline]] void advance() { ++group; }
};

PAGECLI_INLINE VecI broadcast_cell(const uint32_t* cell) { return broadcast_int(static_cast<int32_t>(*cell)); }

struct Int8Pairs : GroupReader<PairedGroup> {
    static constexpr int kSteps = kGroupK / 2, kStepsPerLine = 2, kCells = 1, kScales = 1;
    using GroupReader::GroupReader;

    [[gnu::always_inline]] VecI weight(int step, int v) const { return load_int8_pairs(panel(v).q[step][lane(v)]); }
    [[gnu::always_inline]] static VecI x_of(const uint32_t* cells) { return broadcast_cell(cells); }
    [[gnu::always_inline]] static void add(VecI& sum, VecI x, VecI weight) { accumulate_int16(sum, x, weight); }
    [[gnu::always_inline]] static VecF scaled(VecF sum, VecF scale, VecF rest) { return fmadd(sum, scale, rest); }
};

// No step depends on the instruction set, so that the bits of a product are the same on all of them, a matrix unit included.
struct RotatedQuads : GroupReader<RotatedGroup> {
    static constexpr int kSteps = kGroupK / 4, kStepsPerLine = 1, kCells = cells_per_quad, kScales = 2;
    using GroupReader::GroupReader;

    [[gnu::always_inline]] Quads weight(int step, int v) const { return load_quads(panel(v).q[step][lane(v)]); }
    [[gnu::always_inline]] static QuadX x_of(const uint32_t* cells) { return load_quad_x(cells); }
    [[gnu::always_inline]] static void add(VecI& sum, const QuadX& x, Quads weight) { accumulate_quads(sum, x, weight); }
    [[gnu::always_inline]] static VecF scaled(VecF sum, VecF scale, VecF rest) { return fused(sum, scale, rest); }
};

// Of quantized upper bounds (quantized_bounds.h), whose scales come later; their bytes are without sign.
struct BoundsQuads {
    static constexpr int kSteps = kGroupK / 4, kStepsPerLine = 1, kCells = 1, kScales = 2;
    const uint8_t* bytes;
    int64_t panel_stride;

    explicit BoundsQuads(const TileArgs& t) : bytes(static_cast<const uint8_t*>(t.weight)), panel_stride(t.panel_stride) {}
    [[gnu::always_inline]] VecI weight(int step, int v) const {
        return load_bytes(bytes + step * 4 * kPanelWidth + vector_offset(v, 4 * VecF::width, panel_stride));
    }
    [[gnu::always_inline]] static VecI x_of(const uint32_t* cells) { return broadcast_cell(cells); }
    [[gnu::always_inline]] static void add(VecI& sum, VecI x, VecI weight) { accumulate_bytes(sum, weight, x); }
    [[gnu::always_inline]] static VecF scale(int) { return broadcast(1.0f); }
    [[gnu::always_inline]] static VecF scaled(VecF sum, VecF scale, VecF rest) { return fmadd(sum, scale, rest); }
    [[gnu::always_inline]] void advance() { bytes += kGroupK * kPanelWidth; }
};

template <class Weight, int ROWS, int VECTORS>
PAGECLI_INLINE void sum_group(VecI (&sum)[ROWS][VECTORS], const Weight& weight, const uint32_t* x, Prefetcher& prefetcher) {
    keep_in_registers(sum);
    for (int step = 0; step < Weight::kSteps; step += 2) {
        PAGECLI_UNROLL
        for (int i = 0; i < 2; ++i) {
            outer_product(sum, [=](int r) { return Weight::x_of(x + (r * Weight::kSteps + i) * Weight::kCells); },
                          [=](int v) { return weight.weight(step + i, v); }, Weight::add);
            if ((i + 1) % Weight::kStepsPerLine == 0) prefetcher.advance();
        }
        x += 2 * Weight::kCells;
        keep_in_registers(sum);
    }
    keep_in_registers(sum);
}

template <class Weight, int ROWS, int PANELS>
void tile_integers(const TileArgs& t) {
    constexpr int kVectors = PANELS * kVectorsPerPanel;
    Weight weight(t);
    const uint32_t* x = static_cast<const uint32_t*>(t.x);
    const float* x_scales = t.x_scale;
    Prefetcher prefetcher{t.prefetch, t.prefetch_step};
    if (t.k_count == 0) memset(t.sums, 0, sizeof(float) * ROWS * kVectors * VecF::width);
    for (int64_t group = 0; group < t.k_count / kGroupK; ++group) {
        VecI sum[ROWS][kVectors];
        PAGECLI_UNROLL
        for (int r = 0; r < ROWS; ++r) {
            PAGECLI_UNROLL
            for (int v = 0; v < kVectors; ++v)
                sum[r][v] = Weight::kScales == 1 ? broadcast_int(0) : bits(broadcast(x_scales[ROWS + r]));
        }
        sum_group(sum, weight, x, prefetcher);
        const bool is_first = t.first && group == 0;
        VecF scales[kVectors];
        PAGECLI_UNROLL
        for (int v = 0; v < kVectors; ++v) scales[v] = weight.scale(v);
        PAGECLI_UNROLL
        for (int r = 0; r < ROWS; ++r) {
            const VecF x_scale = broadcast(x_scales[r]);
            PAGECLI_UNROLL
            for (int v = 0; v < kVectors; ++v) {
                float* rest = t.sums + (r * kVectors + v) * VecF::width;
                store(rest, Weight::scaled(to_float(sum[r][v]), x_scale * scales[v], is_first ? zero() : load(rest)));
            }
        }
        weight.advance();
        x += Weight::kSteps * Weight::kCells * ROWS;
        x_scales += Weight::kScales * ROWS;
    }
}

template <class Weight>
struct IntegerTile {
    template <int ROWS, int PANELS>
    struct Of {
        static void run(const TileArgs& t) { tile_integers<Weight, ROWS, PANELS>(t); }
    };
};

template <class Weight, int most_rows>
constexpr Tiles integer_tiles() {
    return TileTable<IntegerTile<Weight>::template Of, integer_wide_panels, most_rows>::tiles();
}

}  // namespace pagecli::PAGECLI_ISA
