// grouped_linear: rows in the order of their experts, and for each expert the tiles of linear on the rows that chose it. A segment is
// what one call of linear would be: some rows of one expert. A batch of segments, whose laid out x stays within a few MiB, is laid out
// and multiplied together, so that threads share the experts of few rows.
#pragma once

#include "linear/linear_run.h"
#include "pagecli/linear/grouped_linear.h"

namespace pagecli::PAGECLI_ISA {

constexpr int kMostSegments = 128;
constexpr int64_t kBatchBytes = int64_t{4} << 20, kLeastSegmentRows = 96;

struct Segment {
    Plan plan;          // of its rows; x is set when they are gathered
    RowTiles tiles;
    ItemShape shape;
    Activations x;
    int64_t first;      // of its rows among those sorted by expert
    int64_t laid_at, gathered_at;  // bytes into the scratch
    int64_t first_item;
};

// Rows by expert, in their own order where they share one: order[first[e] .. first[e + 1]) are (token, choice) of expert e.
struct SortedRows {
    int32_t* order;
    int32_t* first;
};

static inline SortedRows sort_rows(const GroupedLinearArgs& a) {
    const int64_t rows = a.tokens * a.chosen;
    int32_t* first = static_cast<int32_t*>(thread_scratch((rows + a.experts + 2) * 4, ScratchUse::rows));
    int32_t* order = first + a.experts + 2;
    memset(first, 0, static_cast<size_t>(a.experts + 2) * 4);
    const auto id_of = [&a](int64_t row) { return a.ids[row / a.chosen * a.ids_stride + row % a.chosen]; };
    for (int64_t row = 0; row < rows; ++row) ++first[id_of(row) + 2];
    for (int64_t e = 2; e < a.experts + 2; ++e) first[e] += first[e - 1];
    for (int64_t row = 0; row < rows; ++row) order[first[id_of(row) + 1]++] = static_cast<int32_t>(row);
    return {order, first};
}

// sums[rows, cols] and the bias to the places of their (token, choice).
static inline void finish_grouped(const LinearArgs& a, const float* sums, int64_t row, int rows, int64_t col, int cols) {
    const int count = static_cast<int>(a.weight.rows - col < cols ? a.weight.rows - col : cols);
    for (int r = 0; r < rows; ++r)
        finish_row<Activation::none>(a, a.out + a.out_rows[row + r] * a.out_stride + col, sums + r * cols, col, count);
}

static inline const float* row_of(const GroupedLinearArgs& a, int32_t row) {
    return a.x + row / a.chosen * a.x_token_stride + row % a.chosen * a.x_choice_stride;
}

static inline Plan plan_of_expert(const GroupedLinearArgs& a, int64_t expert, int64_t rows, const int32_t* order) {
    LinearArgs args = {};
    args.out = a.out;
    args.bias = a.bias == nullptr ? nullptr : a.bias + expert * a.weight.rows;
    args.out_stride = a.out_stride;
    args.x_stride = a.weight.cols;
    args.tokens = rows;
    args.weight = a.weight;
    args.weight.data = static_cast<const char*>(a.weight.data) + expert * a.expert_bytes;
    args.activation = Activation::none;
    args.out_rows = order;
    return plan_of(args, finish_grouped);
}

// Lays out a segment's rows; one alone is read where it is.
static inline void lay_out_segment(const GroupedLinearArgs& a, Segment& s, const int32_t* order, char* laid, char* gathered) {
    LinearArgs& args = s.plan.args;
    args.x = row_of(a, order[s.first]);
    if (args.tokens > 1) {
        float* rows = reinterpret_cast<float*>(gathered + s.gathered_at);
        args.x = rows;
        for (int64_t r = 0; r < args.tokens; ++r)
            memcpy(rows + r * args.x_stride, row_of(a, order[s.first + r]), static_cast<size_t>(args.x_stride) * sizeof(float));
    }
    s.x = lay_out_x(s.plan, s.tiles, laid + s.laid_at);
}

static inline void run_segments(const GroupedLinearArgs& a, Segment* segments, int count, const int32_t* order, int64_t laid_bytes,
                                int64_t gathered_bytes) {
    char* laid = static_cast<char*>(thread_scratch(laid_bytes));
    char* gathered = static_cast<char*>(thread_scratch(gathered_bytes, ScratchUse::gathered));
    const int64_t num_panels = (a.weight.rows + kPanelWidth - 1) / kPanelWidth;
    int64_t rows = 0, num_items = 0;
    for (int i = 0; i < count; ++i) {
        segments[i].first_item = num_items;
        num_items += segments[i].shape.num_items;
        rows += segments[i].plan.args.tokens;
    }
    parallel_for(count, row_grain(2 * rows * a.weight.cols / count), [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) lay_out_segment(a, segments[i], order, laid, gathered);
    });
    const auto run_one = [&](int64_t item) {
        int low = 0, high = count;  // the last segment that begins at or before the item
        while (high - low > 1) {
            const int middle = (low + high) / 2;
            (segments[middle].first_item <= item ? low : high) = middle;
        }
        run_shaped(segments[low].plan, segments[low].x, segments[low].tiles, segments[low].shape, num_panels,
                   item - segments[low].first_item);
    };
    run_items(num_items, static_cast<double>(rows) * static_cast<double>(a.weight.rows * a.weight.cols), run_one);
}

static inline void run_grouped(const GroupedLinearArgs& a) {
    if (a.tokens * a.chosen == 0 || a.weight.rows == 0) return;
    const SortedRows sorted = sort_rows(a);
    const int64_t num_panels = (a.weight.rows + kPanelWidth - 1) / kPanelWidth;
    const auto aligned = [](int64_t bytes) { return (bytes + 63) / 64 * 64; };
    alignas(Segment) char memory[kMostSegments * sizeof(Segment)];
    Segment* segments = reinterpret_cast<Segment*>(memory);
    int count = 0;
    int64_t laid_bytes = 0, gathered_bytes = 0;
    const auto flush = [&] {
        if (count > 0) run_segments(a, segments, count, sorted.order, laid_bytes, gathered_bytes);
        count = 0;
        laid_bytes = gathered_bytes = 0;
    };
    const int64_t threads = max_threads(), wanted = threads > 1 ? 16 * threads : 1;
    for (int64_t expert = 0; expert < a.experts; ++expert) {
        const int64_t last = sorted.first[expert + 1];
        for (int64_t first = sorted.first[expert], rows; first < last; first += rows) {
            rows = last - first;
            Plan plan = plan_of_expert(a, expert, rows, sorted.order + first);
            const int64_t most = rows_at_once(plan, kBatchBytes, kLeastSegmentRows);
            if (rows > most) plan = plan_of_expert(a, expert, rows = most, sorted.order + first);
            const int64_t bytes = aligned(laid_out_bytes(plan));
            if (count == kMostSegments || (count > 0 && laid_bytes + bytes > kBatchBytes)) flush();
            const RowTiles tiles(rows, plan.tiles);
            const ItemShape shape(tiles, plan.tiles.wide(tiles.max_rows()), num_panels, wanted * rows / (a.tokens * a.chosen) + 1);
            const Segment segment = {plan, tiles, shape, {}, first, laid_bytes, gathered_bytes, 0};
            memcpy(memory + count++ * sizeof segment, &segment, sizeof segment);
            laid_bytes += bytes;
            gathered_bytes += rows > 1 ? aligned(rows * a.weight.cols * static_cast<int64_t>(sizeof(float))) : 0;
        }
    }
    flush();
}

}  // namespace pagecli::PAGECLI_ISA
