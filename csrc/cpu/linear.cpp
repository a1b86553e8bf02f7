// linear: out (+)= activation(x @ weight^T + bias). Work is cut into items of some row tiles x some panels, taken by threads as
// they come free. Within an item a group of panels (at most 4096 k of it) stays in the core's L2 while tile after tile of rows
// passes over it:
//
//   for each block of k, for each group of panels, for each tile of rows:
//       sums[tile, group] += x[tile, block] * weight[group, block]
//
// Sums between two blocks of k rest in memory as the floats they are, so blocking changes no bit of the result. Measured on
// Zen 3 (one core, peak 100 GFLOP/s): blocks of 256 k, which keep a panel in L1, 88; one block up to 4096 k, 93.
#include "pagecli/linear.h"

#include "linear_argmax.h"
#include "linear_epilogue.h"
#include "linear_tile.h"
#include "linear_tile_int8.h"
#include "parallel.h"
#include "quantize.h"
#include "scratch.h"

namespace pagecli::PAGECLI_ISA {
namespace {

constexpr int64_t kKBlock = 4096;
constexpr int kMaxItemPanels = kMaxPanels;
constexpr int kSumsPerItem = 16384;  // floats, 64 KiB: 256 rows of 4 panels

// M rows as tiles of nearly equal height: with 6 at most, 7 rows are 4 + 3, not 6 + 1.
struct RowTiles {
    int64_t count, height, num_higher;  // the first num_higher tiles have height + 1 rows
    RowTiles(int64_t rows, int64_t at_most)
        : count((rows + at_most - 1) / at_most), height(rows / count), num_higher(rows % count) {}
    int64_t first_row(int64_t tile) const { return tile * height + (tile < num_higher ? tile : num_higher); }
    int rows(int64_t tile) const { return static_cast<int>(height + (tile < num_higher ? 1 : 0)); }
    int max_rows() const { return rows(0); }
};

// How many tiles of rows and how many panels make one item.
struct ItemShape {
    int64_t tiles, panels;
    int64_t num_row_items, num_items;
    ItemShape(const RowTiles& row_tiles, int wide, int64_t num_panels, int threads) {
        panels = kMaxItemPanels / wide * wide;
        tiles = kSumsPerItem / (kMaxItemPanels * kPanelWidth) / row_tiles.max_rows();
        if (tiles > row_tiles.count) tiles = row_tiles.count;
        const int64_t wanted = threads > 1 ? 4 * threads : 1;  // items, so that threads end together
        while (count(row_tiles, num_panels) < wanted && tiles > 8) tiles = (tiles + 1) / 2;
        while (count(row_tiles, num_panels) < wanted && panels > wide) panels -= wide;
        num_items = count(row_tiles, num_panels);
    }

  private:
    int64_t count(const RowTiles& row_tiles, int64_t num_panels) {
        num_row_items = (row_tiles.count + tiles - 1) / tiles;
        return num_row_items * ((num_panels + panels - 1) / panels);
    }
};

// x as the tiles take it: the caller's, or rounded to bfloat16, or quantized with a scale for each group of k.
struct Activations {
    const void* data;
    int64_t stride, element_bytes;
    const float* scale;
    int64_t scale_stride;
};

// One call's constants.
struct Plan {
    const LinearArgs& args;
    Activations x;
    int64_t cols;         // k to sum over: whole pairs or groups where those are multiplied
    int64_t padded_cols;  // k of a panel
    int64_t bytes_per_k;  // of a panel
    int64_t panel_stride;  // in elements of the tile's weight
    Tiles tiles;
    FinishFunction finish;
};

// What tile `index` of `num_tiles` prefetches while it reads `panels` panels at `weight`. One tile alone waits for memory: it
// looks 4 KiB ahead in its panel (several panels at once are streams enough for the hardware). Several tiles share the work of
// bringing the next group of panels. LM head 768 x 50272 in float32, one core, GFLOP/s without -> with: M = 6 38 -> 54,
// M = 12 53 -> 84, M = 24 68 -> 91.
void set_prefetch(TileArgs& t, const Plan& plan, int64_t index, int64_t num_tiles, int panels) {
    constexpr int64_t kLine = 64, kAhead = 4096;
    const char* weight = static_cast<const char*>(t.weight);
    const int64_t block_bytes = t.k_count * plan.bytes_per_k;  // of one panel
    t.prefetch = weight;
    t.prefetch_step = 0;
    if (num_tiles == 1 && panels == 1) {
        t.prefetch = weight + kAhead;
        t.prefetch_step = kLine;
    } else if (num_tiles > 1 && t.k_count == plan.cols) {
        const int64_t step = panels * kLine / num_tiles;
        t.prefetch_step = step < kLine ? step : kLine;
        t.prefetch = weight + panels * block_bytes + index * (block_bytes / kLine * t.prefetch_step);
    }
}

void run_item(const Plan& plan, const RowTiles& row_tiles, int64_t first_tile, int64_t last_tile, int64_t first_panel,
              int64_t last_panel) {
    alignas(64) float sums[kSumsPerItem];
    const int64_t first_row = row_tiles.first_row(first_tile);
    const int64_t item_rows = row_tiles.first_row(last_tile) - first_row;
    const int wide = plan.tiles.wide(row_tiles.max_rows());
    const char* weight = static_cast<const char*>(plan.args.weight.data);
    TileArgs t;
    t.x_stride = plan.x.stride;
    t.x_scale_stride = plan.x.scale_stride;
    t.panel_stride = plan.panel_stride;
    bool last = false;
    for (int64_t k = 0; !last; k += kKBlock) {  // once at least: without columns out is activation(bias)
        t.first = k == 0;
        t.k_count = plan.cols - k < kKBlock ? plan.cols - k : kKBlock;
        last = k + t.k_count == plan.cols;
        int panels;
        for (int64_t panel = first_panel; panel < last_panel; panel += panels) {
            const bool is_wide = wide > 1 && last_panel - panel >= wide;
            panels = is_wide ? wide : 1;
            const int cols = panels * static_cast<int>(kPanelWidth);
            t.weight = weight + panel * plan.padded_cols * plan.bytes_per_k + k * plan.bytes_per_k;
            for (int64_t tile = first_tile; tile < last_tile; ++tile) {
                const int64_t row = row_tiles.first_row(tile);
                t.x = static_cast<const char*>(plan.x.data) + (row * plan.x.stride + k) * plan.x.element_bytes;
                if (plan.x.scale != nullptr) t.x_scale = plan.x.scale + row * plan.x.scale_stride + k / kGroupK;
                t.sums = sums + (panel - first_panel) * kPanelWidth * item_rows + (row - first_row) * cols;
                set_prefetch(t, plan, tile - first_tile, last_tile - first_tile, panels);
                plan.tiles.entries[row_tiles.rows(tile)][is_wide](t);
                if (last) plan.finish(plan.args, t.sums, row, row_tiles.rows(tile), panel * kPanelWidth, cols);
            }
        }
    }
}

void run(const Plan& plan, int64_t tokens) {
    const RowTiles row_tiles(tokens, plan.tiles.max_rows);
    const int64_t num_panels = (plan.args.weight.rows + kPanelWidth - 1) / kPanelWidth;
    const ItemShape shape(row_tiles, plan.tiles.wide(row_tiles.max_rows()), num_panels, max_threads());
    constexpr double kWorthWaking = 1 << 18;  // multiplications, some 5 microseconds: less is done by the caller alone
    const double work = static_cast<double>(tokens) * static_cast<double>(plan.args.weight.rows * plan.cols);
    parallel_for(shape.num_items, work < kWorthWaking ? shape.num_items : 1, [&](int64_t begin, int64_t end) {
        for (int64_t item = begin; item < end; ++item) {
            const int64_t tile = item % shape.num_row_items * shape.tiles, panel = item / shape.num_row_items * shape.panels;
            const int64_t last_tile = tile + shape.tiles, last_panel = panel + shape.panels;
            run_item(plan, row_tiles, tile, last_tile < row_tiles.count ? last_tile : row_tiles.count, panel,
                     last_panel < num_panels ? last_panel : num_panels);
        }
    });
}

// x[rows, cols] -> bfloat16 [rows, padded], padding zero.
void round_rows(uint16_t* rounded, int64_t padded, const float* x, int64_t x_stride, int64_t rows, int64_t cols) {
    parallel_for(rows, row_grain(cols), [=](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) {
            uint16_t* to = rounded + r * padded;
            const float* from = x + r * x_stride;
            int64_t k = 0;
            for (; k + VecF::width <= cols; k += VecF::width) store_bf16(to + k, load(from + k));
            for (; k < cols; ++k) to[k] = round_to_bf16(from[k]);
            for (; k < padded; ++k) to[k] = 0;
        }
    });
}

// x[rows, cols] -> quantized [rows, padded] and their scales [rows, padded / 64].
void quantize_rows(int16_t* quantized, float* scale, int64_t padded, const float* x, int64_t x_stride, int64_t rows,
                   int64_t cols) {
    const int64_t num_groups = padded / kGroupK;
    parallel_for(rows, row_grain(2 * cols), [=](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) {
            for (int64_t group = 0; group < num_groups; ++group) {
                const int64_t first = group * kGroupK, width = cols - first < kGroupK ? cols - first : kGroupK;
                alignas(64) float values[kGroupK] = {};
                alignas(64) int32_t q[kGroupK];
                memcpy(values, x + r * x_stride + first, static_cast<size_t>(width) * sizeof(float));
                scale[r * num_groups + group] = quantize_group(q, values, kLargestX);
                for (int k = 0; k < kGroupK; k += 4) store_quad(quantized + r * padded + first + k, q + k);
            }
        }
    });
}

// Runs the plan on some rows at a time, whose activations `convert(memory, part)` has made, so that they stay within a few MiB.
template <class Convert>
void run_converted(const Plan& plan, int64_t bytes_per_row, const Convert& convert) {
    constexpr int64_t kMaxBytes = int64_t{4} << 20;
    const LinearArgs& a = plan.args;
    int64_t max_rows = kMaxBytes / bytes_per_row / kMaxTileRows * kMaxTileRows;
    if (max_rows < 16 * kMaxTileRows) max_rows = 16 * kMaxTileRows;
    for (int64_t row = 0; row < a.tokens; row += max_rows) {
        LinearArgs part = a;
        part.tokens = a.tokens - row < max_rows ? a.tokens - row : max_rows;
        part.out += row * a.out_stride;
        part.x += row * a.x_stride;
        if (a.best != nullptr) part.best += row;
        const Activations x = convert(thread_scratch(part.tokens * bytes_per_row), part);
        run({part, x, plan.cols, plan.padded_cols, plan.bytes_per_k, plan.panel_stride, plan.tiles, plan.finish}, part.tokens);
    }
}

void run_rounded(const Plan& plan) {
    const int64_t padded = (plan.args.weight.cols + 1) / 2 * 2;
    run_converted(plan, padded * 2, [=](void* memory, const LinearArgs& part) -> Activations {
        uint16_t* rounded = static_cast<uint16_t*>(memory);
        round_rows(rounded, padded, part.x, part.x_stride, part.tokens, part.weight.cols);
        return {rounded, padded, 2, nullptr, 0};
    });
}

void run_quantized(const Plan& plan) {
    const int64_t padded = plan.cols, num_groups = padded / kGroupK;
    run_converted(plan, padded * 2 + num_groups * 4, [=](void* memory, const LinearArgs& part) -> Activations {
        int16_t* quantized = static_cast<int16_t*>(memory);  // 64 elements a group: what follows is aligned
        float* scale = reinterpret_cast<float*>(quantized + part.tokens * padded);
        quantize_rows(quantized, scale, padded, part.x, part.x_stride, part.tokens, part.weight.cols);
        return {quantized, padded, 2, scale, num_groups};
    });
}

void run_with(const LinearArgs& a, FinishFunction finish) {
    if (a.tokens == 0) return;
    const Activations x = {a.x, a.x_stride, 4, nullptr, 0};
    const int64_t cols = a.weight.cols, pairs = (cols + 1) / 2 * 2, groups = (cols + kGroupK - 1) / kGroupK;
    const int64_t panel = pairs * kPanelWidth;  // elements
    switch (a.weight.type) {
        case WeightType::float32:
            return run({a, x, cols, pairs, 4 * kPanelWidth, panel, TileTable<Float32Tile>::tiles(), finish}, a.tokens);
        case WeightType::bfloat16: {
            const bool rounded = has_pair_dot && cols > 0;
            const Plan plan = {a, x, rounded ? pairs : cols, pairs, 2 * kPanelWidth, panel, TileTable<Bfloat16Tile>::tiles(),
                               finish};
            return rounded ? run_rounded(plan) : run(plan, a.tokens);
        }
        case WeightType::int8: {
            const int64_t padded = groups * kGroupK, bytes_per_k = sizeof(Int8Group) / kGroupK;
            const Tiles tiles = TileTable<Int8Tile, int8_wide_panels>::tiles(kMaxInt8TileRows);
            const Plan plan = {a, x, padded, padded, bytes_per_k, groups, tiles, finish};
            return groups > 0 ? run_quantized(plan) : run(plan, a.tokens);
        }
    }
}

}  // namespace

void linear(const LinearArgs& a) { run_with(a, finish_function(a.activation)); }

void linear_argmax(const LinearArgmaxArgs& a) {
    for (int64_t row = 0; row < a.tokens; ++row) a.out[row] = 0;
    run_with({nullptr, a.x, nullptr, 0, a.x_stride, a.tokens, a.weight, Activation::none, false, a.out}, keep_largest);
    for (int64_t row = 0; row < a.tokens; ++row) a.out[row] = index_of(a.out[row]);
}

}  // namespace pagecli::PAGECLI_ISA
