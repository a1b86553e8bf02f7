// See the header. Runs on the host, once a step.
#include "pagecli/cuda/attention/attention_plan.h"

#include <algorithm>

namespace pagecli::cuda {
namespace {

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

constexpr int64_t kLeastRun = 64;  // fewer keys than a block of threads reads in one go

}  // namespace

int64_t choose_run_length(const int64_t* num_keys, int64_t num_rows, int64_t kv_heads, int64_t slots, int64_t max_runs) {
    int64_t longest = kLeastRun, total = 0;
    for (int64_t i = 0; i < num_rows; ++i) {
        longest = std::max(longest, num_keys[i]);
        total += num_keys[i];
    }
    longest = divide_up(longest, kLeastRun) * kLeastRun;
    int64_t best = longest;
    double best_cost = -1.0;
    for (int64_t length = longest;; length = divide_up(length / 2, kLeastRun) * kLeastRun) {
        int64_t runs = 0;
        for (int64_t i = 0; i < num_rows; ++i) runs += divide_up(num_keys[i], length);
        if (runs > max_runs) break;
        double cost = static_cast<double>((total + runs * kRunOverhead) * kv_heads) / static_cast<double>(slots);
        cost += static_cast<double>(length + kRunOverhead + (runs > num_rows ? 2 * kRunOverhead : 0));
        if (best_cost < 0.0 || cost < best_cost) {
            best = length;
            best_cost = cost;
        }
        if (length <= kLeastRun) break;
    }
    return best;
}

int64_t cut_into_runs(const DecodeRow* rows, int64_t num_rows, int64_t run_length, KeyRun* runs, int64_t max_runs,
                      Merge* merges, int64_t max_merges) {
    int64_t num_runs = 0, num_merges = 0, num_partials = 0;
    for (int64_t i = 0; i < num_rows; ++i) {
        const DecodeRow& row = rows[i];
        const int64_t count = divide_up(row.end_key - row.first_key, run_length);
        if (num_runs + count > max_runs || (count > 1 && num_merges == max_merges)) return -1;
        if (count > 1) merges[num_merges++] = {row.row, static_cast<int32_t>(num_partials), static_cast<int32_t>(count)};
        for (int64_t part = 0; part < count; ++part) {
            const int64_t first = row.first_key + part * run_length;
            const int64_t end = std::min<int64_t>(row.end_key, first + run_length);
            runs[num_runs++] = {row.sequence, row.row, static_cast<int32_t>(first), static_cast<int32_t>(end),
                                count > 1 ? static_cast<int32_t>(num_partials++) : -1};
        }
    }
    std::fill(runs + num_runs, runs + max_runs, KeyRun{-1, -1, 0, 0, -1});
    std::fill(merges + num_merges, merges + max_merges, Merge{-1, 0, 0});
    return num_partials;
}

int64_t cut_into_tiles(const int32_t* sequences, const int32_t* num_queries, const int32_t* context_lens, int64_t num_sequences,
                       int64_t group, RowTile* tiles, int64_t max_tiles) {
    struct Sized {
        int64_t keys;
        RowTile tile;
    };
    int64_t count = 0;
    for (int64_t i = 0; i < num_sequences; ++i) count += divide_up(num_queries[i] * group, kTileRows);
    if (count > max_tiles) return -1;
    auto* sized = new Sized[static_cast<size_t>(count)];
    int64_t next = 0;
    for (int64_t i = 0; i < num_sequences; ++i) {
        const int64_t num_rows = num_queries[i] * group;
        for (int64_t first = 0; first < num_rows; first += kTileRows) {
            const int64_t last_query = (std::min(first + kTileRows, num_rows) - 1) / group;
            sized[next++] = {context_lens[i] - num_queries[i] + last_query + 1, {sequences[i], static_cast<int32_t>(first)}};
        }
    }
    std::stable_sort(sized, sized + count, [](const Sized& a, const Sized& b) { return a.keys > b.keys; });
    for (int64_t i = 0; i < count; ++i) tiles[i] = sized[i].tile;
    delete[] sized;
    std::fill(tiles + count, tiles + max_tiles, RowTile{-1, 0});
    return count;
}

}  // namespace pagecli::cuda
