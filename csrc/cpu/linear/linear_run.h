// How linear's work is cut and done, whatever the weights and whatever is made of the sums. Work is cut into items of some row
// tiles x some panels; each thread takes neighbouring ones. Within an item a group of panels (at most 4096 k of it) stays in the
// core's L2 while tile after tile of rows passes over it:
//
//   for each block of k, for each group of panels, for each tile of rows:
//       sums[tile, group] += x[tile, block] * weight[group, block]
//
// Sums between two blocks of k rest in memory as the floats they are, so blocking changes no bit of the result. Measured on
// Zen 3 (one core, peak 100 GFLOP/s): blocks of 256 k, which keep a panel in L1, 88; one block up to 4096 k, 93.
#pragma once

#include "linear/linear_epilogue.h"
#include "linear/quantized/steps.h"
#include "linear/quantized/tile_quantized.h"
#include "linear/quantized/tile_quantized_unit.h"
#include "linear/quantized/unpack.h"
#include "linear/tiles/item_shape.h"
#include "linear/tiles/linear_activations.h"
#include "linear/tiles/linear_activations_unit.h"
#include "linear/tiles/linear_tile.h"
#include "linear/tiles/linear_tile_amx.h"
#include "linear/tiles/linear_tile_amx_int8.h"
#include "linear/tiles/linear_tile_amx_rotated.h"
#include "linear/tiles/linear_tile_integers.h"
#include "pagecli/linear/linear.h"
#include "pagecli/linear/quantized_bounds.h"
#include "pagecli/pair_products.h"
#include "parallel.h"
#include "scratch.h"

namespace pagecli::PAGECLI_ISA {

constexpr int64_t kKBlock = 4096;
// Of quantized weights that are unpacked block by block, whole groups: as much as L1 nearly holds, less where one tile of rows reads it.
constexpr int64_t kUnpackedKOfOne = has_pair_dot ? 128 : kLargestGroup, kUnpackedK = kLargestGroup;
// One call's constants.
struct Plan {
    LinearArgs args;
    CellType x_type;
    int64_t cols;         // k to sum over: whole pairs or groups where those are multiplied
    int64_t padded_cols;  // k of a panel
    int64_t bytes_per_k;  // of a panel
    int64_t panel_stride;  // in elements of the tile's weight
    Tiles tiles;
    FinishFunction finish;

    UnpackFunction unpack = nullptr;  // of quantized weights, before tiles read them
    int unpacks_from = 1;             // tiles of rows on
    Tiles unpacked = {};              // what reads them then, of the same heights
    // Of pairs that are multiplied as floats: denormals count as zeros in their products and sums, as instructions of pairs have it.
    bool flushes = x_type == CellType::bfloat16_split;

    bool unpacks(int64_t num_tiles) const { return unpack != nullptr && num_tiles >= unpacks_from; }
    const QuantizedHeader* quantized() const { return args.weight.quantized; }
    // Where the panel's weights from k on are. Of a gated product each panel of the first half comes with its one of the second.
    const char* weight(int64_t panel, int64_t k) const {
        const char* data = static_cast<const char*>(args.weight.data);
        if (args.is_gated) panel = panel / 2 + panel % 2 * (args.weight.rows / 2 / kPanelWidth);
        if (quantized() == nullptr) return data + panel * padded_cols * bytes_per_k + k * bytes_per_k;
        return data + (panel * padded_cols + k) / quantized()->group * quantized()->group_bytes();
    }
    int64_t k_block(int64_t num_tiles) const {
        if (!unpacks(num_tiles)) return kKBlock;
        const int64_t group = quantized()->group;
        return num_tiles > 1 ? kUnpackedK : group > kUnpackedKOfOne ? group : kUnpackedKOfOne;
    }
};

// The weights of a block of quantized panels, one behind the other. `next`: the first of those to come.
static inline void unpack(TileArgs& t, const Plan& plan, int64_t panel, int64_t k, int panels, const char* next) {
    const QuantizedHeader& header = *plan.quantized();
    const int64_t panel_bytes = t.k_count * plan.bytes_per_k;
    char* numbers = static_cast<char*>(thread_scratch(panels * panel_bytes, ScratchUse::weights));
    const int64_t ahead = next - plan.weight(panel, k);
    for (int p = 0; p < panels; ++p) {
        const uint8_t* groups = reinterpret_cast<const uint8_t*>(plan.weight(panel + p, k));
        plan.unpack(numbers + p * panel_bytes, groups, t.k_count / header.group, header, ahead);
    }
    t.weight = numbers;
    t.panel_stride = t.k_count * kPanelWidth;
}

// What tile `index` of `num_tiles` prefetches while it reads `panels` panels at `weight`. One tile alone waits for memory: it
// looks 4 KiB ahead in its panel (several panels at once are streams enough for the hardware). Several tiles share the work of
// bringing the next group of panels. LM head 768 x 50272 in float32, one core, GFLOP/s without -> with: M = 6 38 -> 54,
// M = 12 53 -> 84, M = 24 68 -> 91.
static inline void set_prefetch(TileArgs& t, const Plan& plan, int64_t index, int64_t num_tiles, int panels) {
    constexpr int64_t kLine = 64, kAhead = 4096;
    const char* weight = static_cast<const char*>(t.weight);
    const int64_t block_bytes = t.k_count * plan.bytes_per_k;  // of one panel
    t.prefetch = weight;
    t.prefetch_step = 0;
    if (plan.quantized() != nullptr) return;
    if (num_tiles == 1 && panels == 1) {
        t.prefetch = weight + kAhead;
        t.prefetch_step = kLine;
    } else if (num_tiles > 1 && t.k_count == plan.cols) {
        const int64_t step = panels * kLine / num_tiles, most = plan.args.weight.type == WeightType::float32 ? kLine : 4 * kLine;
        t.prefetch_step = step < most ? step : most;
        t.prefetch = weight + panels * block_bytes + index * (block_bytes / kLine * t.prefetch_step);
    }
}

// On a matrix unit, which is through with a panel before the next has come: tiles share the work of bringing the next panels, which
// their thread takes next. Weights of 40 MB, 2 threads of an Emerald Rapids, 64 rows: bfloat16 113 -> 89 ns a 16 x 16 x 64, int8 75 -> 60.
// One tile of bfloat16 alone waits for memory and looks ahead in its own panels: 16 rows come in 0.7 of the time, 32 in 0.8.
static inline void set_prefetch_of_unit(TileArgs& t, const Plan& plan, int64_t index, int64_t num_tiles, int64_t panel, int panels) {
    t.next_panels = plan.args.is_gated ? 0 : (panels - 1) * t.panel_stride;
    constexpr int64_t kLine = 64;
    const int64_t bytes = panels * t.k_count * plan.bytes_per_k / num_tiles;
    // Rotated blocks come by each line of a panel once for every 16 rows, others by all panels' lines at once.
    const int64_t lines_of_x = plan.x_type == CellType::rotated_unit ? panels * (laid_rows(t.rows) / kUnitRows) : 1;
    const int64_t lines = t.k_count * plan.bytes_per_k / kLine * lines_of_x + 1;
    const bool is_there = plan.quantized() == nullptr && (panel + panels) * kPanelWidth < plan.args.weight.rows;
    t.prefetch_step = is_there && t.k_count == plan.cols ? bytes / lines + 1 : 0;
    t.looks_ahead = plan.x_type == CellType::bfloat16_unit && plan.quantized() == nullptr && num_tiles == 1;
    const int64_t panel_bytes = t.k_count * plan.bytes_per_k, at = index * bytes;
    const char* weight = static_cast<const char*>(t.weight);
    if (plan.args.is_gated)
        t.prefetch = weight + panel_bytes + (at < panel_bytes ? at : at - panel_bytes + t.panel_stride * plan.bytes_per_k / kPanelWidth);
    else
        t.prefetch = weight + panels * panel_bytes + at;
}

// Whether none of the panels has an output that a row may choose.
static inline bool are_left_out(const Plan& plan, int64_t panel, int panels) {
    const RowMasks* masks = plan.args.masks;
    if (masks == nullptr || masks->any == nullptr) return false;
    for (int64_t i = 0; i < panels; ++i)
        if (masks->any[panel + i] != 0) return false;
    return true;
}

static inline void run_tile(TileFunction tile, const TileArgs& t, bool flushes) {
#if defined(__AVX512BF16__)
    constexpr unsigned kFlush = 0x8040;  // of MXCSR: denormals are zeros, read and written
    const unsigned before = _mm_getcsr();
    if (flushes) _mm_setcsr(before | kFlush);
    tile(t);
    if (flushes) _mm_setcsr(before);
#else
    (void)flushes;
    tile(t);
#endif
}

static inline void run_item(const Plan& plan, const Activations& x, const RowTiles& row_tiles, int64_t first_tile,
                            int64_t last_tile, int64_t first_panel, int64_t last_panel) {
    alignas(64) float sums[kSumsPerItem];
    const int64_t first_row = row_tiles.first_row(first_tile);
    const int64_t item_rows = row_tiles.first_row(last_tile) - first_row;
    const int wide = plan.tiles.wide(row_tiles.max_rows());
    const int64_t block = plan.k_block(last_tile - first_tile);
    const bool unpacks = plan.unpacks(last_tile - first_tile);
    const Tiles& tiles = unpacks ? plan.unpacked : plan.tiles;
    TileUse unit;
    TileArgs t;
    t.unit = &unit;
    t.panel_stride = plan.panel_stride;
    t.quantized = plan.quantized();
    bool last = false;
    for (int64_t k = 0; !last; k += block) {  // once at least: without columns out is activation(bias)
        t.first = k == 0;
        t.k_count = plan.cols - k < block ? plan.cols - k : block;
        last = k + t.k_count == plan.cols;
        int panels;
        for (int64_t panel = first_panel; panel < last_panel; panel += panels) {
            const bool is_wide = wide > 1 && last_panel - panel >= wide;
            panels = is_wide ? wide : 1;
            if (are_left_out(plan, panel, panels)) continue;
            const int cols = panels * static_cast<int>(kPanelWidth);
            t.weight = plan.weight(panel, k);
            const char* next = panel + panels < last_panel ? plan.weight(panel + panels, k) : plan.weight(first_panel, k + block);
            if (unpacks) unpack(t, plan, panel, k, panels, next);
            for (int64_t tile = first_tile; tile < last_tile; ++tile) {
                const int64_t row = row_tiles.first_row(tile);
                const int rows = row_tiles.rows(tile);
                const int64_t rows_of_cells = has_whole_units(plan.x_type) ? laid_rows(rows) : rows;
                const int64_t cell = row * x.cells_per_row + k / k_per_cell(plan.x_type) * rows_of_cells;
                t.x = static_cast<const char*>(x.cells) + cell * 4;
                const int64_t scales = row * x.num_scales + k / kGroupK * scales_per_group(plan.x_type) * rows_of_cells;
                t.x_scale = x.scale == nullptr ? nullptr : x.scale + scales;
                t.sums = sums + (panel - first_panel) * kPanelWidth * item_rows + (row - first_row) * cols;
                const int64_t index = tile - first_tile, num_tiles = last_tile - first_tile;
                t.rows = rows;
                if (is_of_unit(plan.x_type))
                    set_prefetch_of_unit(t, plan, index, num_tiles, panel, panels);
                else
                    set_prefetch(t, plan, index, num_tiles, panels);
                if (last) fetch_out(plan.args, row, rows, panel * kPanelWidth, cols);
                run_tile(tiles.at(rows, is_wide), t, plan.flushes);
                if (last) plan.finish(plan.args, t.sums, row, rows, panel * kPanelWidth, cols);
            }
        }
    }
}

// Of laid out x: its cells and scales.
static inline int64_t bytes_per_row(const Plan& plan) {
    const int64_t groups = (plan.cols + kGroupK - 1) / kGroupK;
    return (cells_of(plan.x_type, plan.cols) + groups * scales_per_group(plan.x_type)) * 4;
}

static inline int64_t laid_out_bytes(const Plan& plan) {
    return (has_whole_units(plan.x_type) ? laid_rows(plan.args.tokens) : plan.args.tokens) * bytes_per_row(plan);
}

// x in `memory` of laid_out_bytes(plan), or where it is.
static inline Activations lay_out_x(const Plan& plan, const RowTiles& tiles, void* memory) {
    const LinearArgs& a = plan.args;
    const int64_t cols = a.weight.cols, cells_per_row = cells_of(plan.x_type, plan.cols);
    if (a.x_is_handed_over || (plan.x_type == CellType::float32 && a.tokens == 1)) return {a.x, cells_per_row, nullptr, 0};
    switch (plan.x_type) {
        case CellType::bfloat16_pair:
            return lay_out<CellType::bfloat16_pair>(memory, tiles, a.x, a.x_stride, a.tokens, cols, cells_per_row);
        case CellType::bfloat16_split:
            return lay_out<CellType::bfloat16_split>(memory, tiles, a.x, a.x_stride, a.tokens, cols, cells_per_row);
        case CellType::int16_pair:
            return lay_out<CellType::int16_pair>(memory, tiles, a.x, a.x_stride, a.tokens, cols, cells_per_row);
        case CellType::int8_quad:
            return lay_out<CellType::int8_quad>(memory, tiles, a.x, a.x_stride, a.tokens, cols, cells_per_row);
        case CellType::rotated_quad:
            return lay_out<CellType::rotated_quad>(memory, tiles, a.x, a.x_stride, a.tokens, cols, cells_per_row);
#if PAGECLI_HAS_MATRIX_UNIT
        case CellType::rotated_unit:
            return lay_out_unit<CellType::rotated_unit>(memory, tiles, a.x, a.x_stride, a.tokens, cols, cells_per_row);
        case CellType::bfloat16_unit:
            return lay_out_unit<CellType::bfloat16_unit>(memory, tiles, a.x, a.x_stride, a.tokens, cols, cells_per_row);
        case CellType::int16_unit:
            return lay_out_unit<CellType::int16_unit>(memory, tiles, a.x, a.x_stride, a.tokens, cols, cells_per_row);
#endif
        default: break;
    }
    return lay_out<CellType::float32>(memory, tiles, a.x, a.x_stride, a.tokens, cols, cells_per_row);
}

static inline Activations lay_out_x(const Plan& plan, const RowTiles& tiles) {
    return lay_out_x(plan, tiles, thread_scratch(laid_out_bytes(plan)));
}

// run_one(item) for each item, by all threads where that is worth waking them.
template <class Function>
static inline void run_items(int64_t num_items, double multiplications, const Function& run_one) {
    constexpr double kWorthWaking = 1 << 18;  // some 5 microseconds: less is done by the caller alone
    if (multiplications >= kWorthWaking) return parallel_shares(num_items, run_one);
    for (int64_t item = 0; item < num_items; ++item) run_one(item);
}

// Item `item` of a shape.
static inline void run_shaped(const Plan& plan, const Activations& x, const RowTiles& row_tiles, const ItemShape& shape,
                              int64_t num_panels, int64_t item) {
    const int64_t row_item = shape.rows_first ? item % shape.num_row_items : item / shape.num_panel_items;
    const int64_t panel_item = shape.rows_first ? item / shape.num_row_items : item % shape.num_panel_items;
    const int64_t tile = row_item * shape.tiles, panel = panel_item * shape.panels;
    const int64_t last_tile = tile + shape.tiles, last_panel = panel + shape.panels;
    run_item(plan, x, row_tiles, tile, last_tile < row_tiles.count ? last_tile : row_tiles.count, panel,
             last_panel < num_panels ? last_panel : num_panels);
}

static inline void run_rows(const Plan& plan) {
    const RowTiles row_tiles(plan.args.tokens, plan.tiles);
    const Activations x = lay_out_x(plan, row_tiles);
    const int64_t num_panels = (plan.args.weight.rows + kPanelWidth - 1) / kPanelWidth;
    const int64_t threads = max_threads();
    const int64_t of_each = plan.unpacks(row_tiles.count) ? 4 : 16;  // weights are unpacked anew for each item of rows
    const int64_t most_rows = is_of_unit(plan.x_type) ? kRowsInL2 / (bytes_per_row(plan) + 1) : INT64_MAX;
    const ItemShape shape(row_tiles, plan.tiles.wide(row_tiles.max_rows()), num_panels, threads > 1 ? of_each * threads : 1, most_rows);
    const double work = static_cast<double>(plan.args.tokens) * static_cast<double>(plan.args.weight.rows * plan.cols);
    run_items(shape.num_items, work, [&](int64_t item) { run_shaped(plan, x, row_tiles, shape, num_panels, item); });
}

// Of some rows: as many as are laid out in `most_bytes`, whole tiles, but `least` at least.
static inline int64_t rows_at_once(const Plan& plan, int64_t most_bytes, int64_t least) {
    const int64_t height = plan.tiles.max_rows, rows = most_bytes / (bytes_per_row(plan) + 1) / height * height;
    return rows < least ? least : rows;
}

// Some rows at a time, whose laid out x stays within a few MiB; all at once where two products share their tiles.
static inline void run(Plan plan) {
    constexpr int64_t kMaxBytes = int64_t{4} << 20, kLeastRows = 96;
    const bool shares_tiles = plan.args.hands_over || plan.args.x_is_handed_over;
    int64_t rows = shares_tiles ? plan.args.tokens : rows_at_once(plan, kMaxBytes, kLeastRows);
    for (int64_t left = plan.args.tokens; left > 0; left -= rows) {
        plan.args.tokens = left < rows ? left : rows;
        run_rows(plan);
        plan.args.out += plan.args.tokens * plan.args.out_stride;
        plan.args.x += plan.args.tokens * plan.args.x_stride;
        plan.args.first_row += plan.args.tokens;
    }
}

constexpr bool widens_pairs = pairs_can_be_widened && !PAGECLI_HAS_MATRIX_UNIT;

static inline Plan plan_of_bfloat16(const LinearArgs& a, FinishFunction finish) {
    const int64_t pairs = (a.weight.cols + 1) / 2 * 2, panel = pairs * kPanelWidth;
#if PAGECLI_HAS_MATRIX_UNIT
    if (a.is_gated)
        return {a, CellType::bfloat16_unit, pairs, pairs, 2 * kPanelWidth, a.weight.rows / 2 * pairs, unit_pair_tiles(), finish};
    return {a, CellType::bfloat16_unit, pairs, pairs, 2 * kPanelWidth, panel, unit_bfloat16_tiles(a.tokens), finish};
#else
    if constexpr (widens_pairs) {
        if (pairs_are_widened())
            return {a, CellType::bfloat16_split, pairs, pairs, 2 * kPanelWidth, panel, TileTable<WidenedTile>::tiles(), finish};
    }
    const CellType x_type = has_pair_dot ? CellType::bfloat16_pair : CellType::float32;
    const int64_t k = has_pair_dot ? pairs : a.weight.cols;
    return {a, x_type, k, pairs, 2 * kPanelWidth, panel, TileTable<Bfloat16Tile>::tiles(), finish};
#endif
}

constexpr int64_t kFewRows = 8;  // which take no longer, int8, than 16 on a matrix unit

static inline Plan plan_of_int8(const LinearArgs& a, FinishFunction finish) {
    const int64_t groups = (a.weight.cols + kGroupK - 1) / kGroupK, k = groups * kGroupK;
    const int64_t bytes_per_k = sizeof(RotatedGroup) / kGroupK;
#if PAGECLI_HAS_MATRIX_UNIT
    if (a.tokens > kFewRows) return {a, CellType::rotated_unit, k, k, bytes_per_k, groups, rotated_unit_tiles(), finish};
#endif
    return {a, CellType::rotated_quad, k, k, bytes_per_k, groups, integer_tiles<RotatedQuads, kMaxByteRows>(), finish};
}

static inline Plan plan_of_int8_a16(const LinearArgs& a, FinishFunction finish) {
    const int64_t groups = (a.weight.cols + kGroupK - 1) / kGroupK, k = groups * kGroupK;
    const int64_t bytes_per_k = sizeof(PairedGroup) / kGroupK;
#if PAGECLI_HAS_MATRIX_UNIT
    // Fewer rows are faster without it (one row 1.5 times), and the bits are the same.
    if (a.tokens >= kUnitRows) return {a, CellType::int16_unit, k, k, bytes_per_k, groups, unit_int8_tiles(), finish};
#endif
    return {a, CellType::int16_pair, k, k, bytes_per_k, groups, integer_tiles<Int8Pairs, kMaxTileRows>(), finish};
}

// Weights made as `Weight` before tiles read them or, of few rows, in tiles that read the numbers.
template <class Weight>
Plan with_made(Plan plan, const Tiles& unpacked) {
    const QuantizedHeader& header = *plan.quantized();
    plan.unpack = unpack_function<Weight>(header.numbers());
    plan.unpacked = plan.tiles = unpacked;
    plan.bytes_per_k = sizeof(Weight) * kPanelWidth;
    plan.panel_stride = plan.cols / header.group * header.group_bytes();
    if constexpr (has_quantized_tiles<Weight>) {
        Tiles of_few = QuantizedTiles<Weight>::of(header.numbers());
        if (has_steps(header)) use_steps<Weight>(header, &plan.unpack, &of_few);
        if (plan.args.tokens <= of_few.max_rows || (has_pair_dot && header.bits == 4)) {
            plan.tiles = of_few;
            plan.unpacks_from = 2;
        }
    }
#if PAGECLI_HAS_UNIT_ROW_TILES
    if (std::is_same_v<Weight, uint16_t> && plan.args.tokens == 1) {
        plan.tiles = unit_row_tiles(header.numbers());
        plan.unpacks_from = 2;
        plan.flushes = true;
    }
#endif
    return plan;
}

// As of weights in float32 or bfloat16.
static inline Plan plan_of_quantized(const LinearArgs& a, FinishFunction finish) {
    const int64_t cols = a.weight.cols;
    const bool is_bfloat16 = a.weight.quantized->type == WeightType::bfloat16;
    const Tiles floats = TileTable<Float32Tile>::tiles();
    const Plan of_floats = {a, CellType::float32, cols, cols, 4 * kPanelWidth, 0, floats, finish};
    if (!is_bfloat16) return with_made<float>(of_floats, floats);
    if constexpr (has_pair_dot) {
        const Plan plan = plan_of_bfloat16(a, finish);
        if constexpr (widens_pairs) {
            if (plan.x_type == CellType::bfloat16_split) return with_made<SplitFloat>(plan, floats);
        }
        return with_made<uint16_t>(plan, plan.tiles);
    } else {
        return with_made<RoundedFloat>(of_floats, floats);
    }
}

// For weights as packed_weight.h or quantized_weight.h lays them out.
static inline Plan plan_of(const LinearArgs& a, FinishFunction finish) {
    if (a.weight.quantized != nullptr) return plan_of_quantized(a, finish);
    const int64_t cols = a.weight.cols, pairs = (cols + 1) / 2 * 2;
    switch (a.weight.type) {
        case WeightType::bfloat16: return plan_of_bfloat16(a, finish);
        case WeightType::int8: return plan_of_int8(a, finish);
        case WeightType::int8_a16: return plan_of_int8_a16(a, finish);
        case WeightType::float32: break;
    }
    return {a, CellType::float32, cols, pairs, 4 * kPanelWidth, pairs * kPanelWidth, TileTable<Float32Tile>::tiles(), finish};
}

// For the bytes of quantized bounds in place of a.weight.data.
static inline Plan plan_of_bounds(const LinearArgs& a, FinishFunction finish) {
    const int64_t cols = bounds_cols(a.weight.cols);
    return {a, CellType::int8_quad, cols, cols, kPanelWidth, cols * kPanelWidth, integer_tiles<BoundsQuads, kMaxByteRows>(), finish};
}

}  // namespace pagecli::PAGECLI_ISA
