// The tile of linear for rotated int8 weights on a matrix unit: a group of a panel is, as it lies in memory, what a register takes,
// and a block of 16 rows of x times it one instruction. Its exact sums go through memory into 16 vectors of float sums, which stay
// in registers over all groups; the next groups' products are made meanwhile. What follows the sums has the order and the
// roundings of RotatedQuads, and so its bits.
#pragma once

#include "linear_tile_amx_int8.h"

namespace pagecli::PAGECLI_ISA {

#if PAGECLI_HAS_MATRIX_UNIT

constexpr int kMaxRotatedUnitRows = 4 * kUnitRows;
constexpr int rotated_unit_wide_panels(int) { return 2; }

// Integer sums of four groups: of two while they are added, and of two on their way out of the unit, which takes as long.
struct UnitSums {
    alignas(64) int32_t sums[4][kUnitRows][kPanelWidth];
};

// A block's float sums.
struct BlockSums {
    VecF sum[kUnitRows][kVectorsPerPanel];

    [[gnu::always_inline]] void start(const float* from, int64_t stride, int rows, bool is_first) {
        PAGECLI_UNROLL
        for (int r = 0; r < kUnitRows; ++r) {
            PAGECLI_UNROLL
            for (int v = 0; v < kVectorsPerPanel; ++v)
                sum[r][v] = is_first || r >= rows ? zero() : load(from + r * stride + v * VecF::width);
        }
    }
    [[gnu::always_inline]] void add(const int32_t (&integers)[kUnitRows][kPanelWidth], const RotatedGroup& group, const float* x_scale) {
        PAGECLI_UNROLL
        for (int v = 0; v < kVectorsPerPanel; ++v) {
            const VecF scale = load(group.scale + v * VecF::width);
            PAGECLI_UNROLL
            for (int r = 0; r < kUnitRows; ++r) {
                const VecI integer = bits(load(reinterpret_cast<const float*>(integers[r]) + v * VecF::width));
                sum[r][v] = fused(to_float(integer), broadcast(x_scale[r]) * scale, sum[r][v]);
            }
        }
    }
    [[gnu::always_inline]] void finish(float* to, int64_t stride, int rows) const {
        PAGECLI_UNROLL
        for (int r = 0; r < kUnitRows; ++r) {
            if (r >= rows) break;
            PAGECLI_UNROLL
            for (int v = 0; v < kVectorsPerPanel; ++v) store(to + r * stride + v * VecF::width, sum[r][v]);
        }
    }
};

template <int c>
PAGECLI_INLINE void multiply_rotated(int32_t (&sums)[kUnitRows][kPanelWidth], const char* x, const RotatedGroup& group) {
    tile_load<4 + c>(x, kUnitRowBytes);
    tile_load<6 + c>(group.q, kUnitRowBytes);
    tile_zero<c>();
    tile_dot_int8<c, 4 + c, 6 + c>();
    tile_store<c>(sums, kUnitRowBytes);
}

// Up to 16 rows times one panel; `x_step` bytes and `scale_step` scales from one group of x to the next.
struct RotatedBlock {
    const char* x;
    const float* x_scale;
    int64_t x_step, scale_step, num_groups;
    const RotatedGroup* weight;
    float* sums;
    int64_t sums_stride;
    int rows;
    bool first;
};

// Two groups' products, the second of which may be missing.
struct GroupPair {
    const char* x;
    const float* x_scale;
    const RotatedGroup* weight;
    bool has_second;

    [[gnu::always_inline]] void multiply(const RotatedBlock& b, int32_t (*sums)[kUnitRows][kPanelWidth]) const {
        multiply_rotated<0>(sums[0], x, weight[0]);
        if (has_second) multiply_rotated<1>(sums[1], x + b.x_step, weight[1]);
    }
    [[gnu::always_inline]] void add(const RotatedBlock& b, const int32_t (*sums)[kUnitRows][kPanelWidth], BlockSums& block) const {
        block.add(sums[0], weight[0], x_scale);
        if (has_second) block.add(sums[1], weight[1], x_scale + b.scale_step);
    }
};

static inline void rotated_block(const RotatedBlock& b, Prefetcher& prefetcher) {
    UnitSums unit;
    BlockSums block;
    block.start(b.sums, b.sums_stride, b.rows, b.first);
    if (b.num_groups > 0) {
        GroupPair pair = {b.x, b.x_scale, b.weight, b.num_groups > 1};
        int side = 0;
        pair.multiply(b, unit.sums);
        for (int64_t group = 2; group < b.num_groups; group += 2) {
            const GroupPair next = {pair.x + 2 * b.x_step, pair.x_scale + 2 * b.scale_step, pair.weight + 2,
                                    group + 1 < b.num_groups};
            next.multiply(b, unit.sums + 2 - side);
            prefetch_for(prefetcher, 2 * kUnitRows);
            pair.add(b, unit.sums + side, block);
            pair = next;
            side = 2 - side;
        }
        prefetch_for(prefetcher, kUnitRows * (pair.has_second ? 2 : 1));
        pair.add(b, unit.sums + side, block);
    }
    block.finish(b.sums, b.sums_stride, b.rows);
}

template <int PANELS>
void tile_rotated_unit(const TileArgs& t) {
    t.unit->shape(kUnitRows);
    const int64_t laid = laid_rows(t.rows);
    Prefetcher prefetcher{t.prefetch, t.prefetch_step};
    for (int p = 0; p < PANELS; ++p) {
        const RotatedGroup* weight = static_cast<const RotatedGroup*>(t.weight) + p * t.panel_stride;
        for (int row = 0; row < t.rows; row += kUnitRows) {
            const RotatedBlock block = {static_cast<const char*>(t.x) + row * kUnitRowBytes,
                                        t.x_scale + row,
                                        laid * kUnitRowBytes,
                                        laid,
                                        t.k_count / kGroupK,
                                        weight,
                                        t.sums + row * PANELS * kPanelWidth + p * kPanelWidth,
                                        PANELS * kPanelWidth,
                                        min_int(kUnitRows, t.rows - row),
                                        t.first};
            rotated_block(block, prefetcher);
        }
    }
}

inline Tiles rotated_unit_tiles() {
    static constexpr TileFunction entries[1][2] = {{tile_rotated_unit<1>, tile_rotated_unit<2>}};
    return {entries, kMaxRotatedUnitRows, rotated_unit_wide_panels, kMaxRotatedUnitRows};
}

#endif

}  // namespace pagecli::PAGECLI_ISA
