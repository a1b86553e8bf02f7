// Attention over the paged KV cache: decode, prefill chunks and any mix of them in one call. A task is up to kMaxRows query
// rows: some of one KV head (position-major, its query heads side by side), which share the pass over its keys and values, or all
// rows of several KV heads, whose keys lie side by side in a block and are read as one stream. One head's share of a block alone
// is too short for that: from memory 2 KB here and there came at 9 GB/s, 24 KB at 13 (one core of Zen 3).
#include "attention_keys.h"
#include "attention_tile.h"
#include "pagecli/attention/paged_attention.h"
#include "parallel.h"

namespace pagecli::PAGECLI_ISA {
namespace {

struct Task {
    int64_t sequence, kv_head, first_row;  // row = query index * group + head in group
};

struct Sequence {
    int64_t first_query, num_rows, first_position;  // rows of a KV head; position of query 0
};

Sequence sequence_at(const PagedAttentionArgs& a, int64_t s) {
    const int64_t begin = a.query_start[s], num_queries = a.query_start[s + 1] - begin;
    return {begin, num_queries * (a.heads / a.kv_heads), a.context_lens[s] - num_queries};
}

int64_t first_visible(const PagedAttentionArgs& a, int64_t position) {
    return a.window > 0 && position >= a.window ? position - a.window + 1 : 0;
}

// Cost of `num_rows` rows of one KV head in keys x rows, the last of them at `position`; the 2 stands for reading K and V once.
int64_t rows_cost(const PagedAttentionArgs& a, int64_t position, int64_t num_rows) {
    return (position + kTileKeys - first_visible(a, position)) * (num_rows + 2);
}

// KV heads of a task: as many as have room, but no more than the cost of a piece of work.
int64_t heads_at_once(const PagedAttentionArgs& a, const Sequence& sequence, int64_t piece_cost) {
    const int64_t most = kMaxRows / sequence.num_rows;
    const int64_t worth = piece_cost / rows_cost(a, sequence.first_position + sequence.num_rows, sequence.num_rows);
    const int64_t heads = most < worth ? most : worth;
    return heads > 1 ? heads : 1;
}

bool next_task(const PagedAttentionArgs& a, Task& task, const Sequence& sequence, int64_t num_heads) {
    task.first_row += kMaxRows;
    if (task.first_row < sequence.num_rows) return true;
    task.first_row = 0;
    task.kv_head += num_heads;
    if (task.kv_head < a.kv_heads) return true;
    task.kv_head = 0;
    ++task.sequence;
    return false;
}

int64_t min_end(int64_t tile, int64_t end) { return tile + kTileKeys < end ? tile + kTileKeys : end; }

// The first tile of a task, whole or up to the last key its first row sees.
template <class T>
void find_first_keys(const PagedAttentionArgs& a, const Task& task, TileOffsets& offsets) {
    const int64_t position = sequence_at(a, task.sequence).first_position + task.first_row / (a.heads / a.kv_heads);
    const int64_t begin = first_visible(a, position), first = begin - begin % kTileKeys;
    find_keys<T>(a, task.sequence, task.kv_head, begin, min_end(first, position + 1), offsets);
}

// Rows first_row on, `count` of them, of one KV head and the keys each sees of the tile at `first_key`.
template <class T>
void attend_some(AttentionState& state, const Tile<T>& tile, int first_row, int count, const KeyRange* ranges) {
    static_assert(kTileRows == 6);
    if (count == 1) attend_tile<1>(state, tile, first_row, ranges);
    if (count == 2) attend_tile<2>(state, tile, first_row, ranges);
    if (count == 3) attend_tile<3>(state, tile, first_row, ranges);
    if (count == 4) attend_tile<4>(state, tile, first_row, ranges);
    if (count == 5) attend_tile<5>(state, tile, first_row, ranges);
    if (count == 6) attend_tile<6>(state, tile, first_row, ranges);
}

// One tile of one KV head, its rows from state row `first` on; what `tile.next` names is prefetched once.
template <class T>
void attend_head(const PagedAttentionArgs& a, AttentionState& state, Tile<T>& tile, const int64_t* positions, int first,
                 int num_rows, int64_t first_key) {
    int row = 0, end = num_rows;  // positions do not fall: who sees none of the tile is at one end or the other
    while (row < end && positions[row] < first_key) ++row;
    while (row < end && first_visible(a, positions[end - 1]) >= first_key + kTileKeys) --end;
    if constexpr (has_scales<T>) read_value_scales(state, tile);
    while (row < end) {
        const int parts = (end - row + kTileRows - 1) / kTileRows, count = (end - row + parts - 1) / parts;
        KeyRange ranges[kTileRows];
        for (int i = 0; i < count; ++i) {
            const int64_t low = first_visible(a, positions[row + i]) - first_key, high = positions[row + i] + 1 - first_key;
            if (a.slopes != nullptr) state.distances[i] = static_cast<float>(positions[row + i] - first_key);
            ranges[i] = {low > 0 ? static_cast<int>(low) : 0, high < kTileKeys ? static_cast<int>(high) : kTileKeys};
        }
        attend_some(state, tile, first + row, count, ranges);
        tile.next = nullptr;
        row += count;
    }
}

// `num_rows` rows of each of `num_heads` KV heads, tile by tile. While one head's tile is computed the next one's is prefetched;
// in the end the first one of the `following` task (or null): in a decode step contexts are a few tiles long.
template <class T>
void attend_rows(const PagedAttentionArgs& a, const Task& task, const Task* following, AttentionState& state,
                 const int64_t* positions, int num_rows, int num_heads) {
    const T *k_cache = static_cast<const T*>(a.k_cache), *v_cache = static_cast<const T*>(a.v_cache);
    const int64_t begin = first_visible(a, positions[0]), end = positions[num_rows - 1] + 1;
    const int64_t head_stride = a.block_size * slot_elements<T>(a.head_dim);
    KeyReader<T> reader(a, task.sequence);
    TileOffsets offsets[2];
    int64_t first = begin - begin % kTileKeys;
    find_keys<T>(a, task.sequence, task.kv_head, begin, min_end(first, end), offsets[0]);
    for (int current = 0; first < end; first += kTileKeys, current = 1 - current) {
        const TileOffsets* next = nullptr;
        if (first + kTileKeys < end) {
            find_keys<T>(a, task.sequence, task.kv_head, first + kTileKeys, min_end(first + kTileKeys, end), offsets[1 - current]);
            next = &offsets[1 - current];
        } else if (following != nullptr) {
            find_first_keys<T>(a, *following, offsets[1 - current]);
            next = &offsets[1 - current];
        }
        for (int head = 0; head < num_heads; ++head) {
            const int64_t shift = head * head_stride;
            Tile<T> tile;
            tile.offsets = &offsets[current];
            tile.dim = static_cast<int>(a.head_dim);
            tile.v_cache = v_cache + shift;
            tile.next = head + 1 < num_heads ? &offsets[current] : next;
            tile.next_k_cache = k_cache + (head + 1 < num_heads ? shift + head_stride : 0);
            tile.next_v_cache = v_cache + (head + 1 < num_heads ? shift + head_stride : 0);
            reader.read(tile, k_cache + shift, task.kv_head + head, begin > first ? begin : first, min_end(first, end));
            attend_head(a, state, tile, positions, head * num_rows, num_rows, first);
        }
    }
}

template <class T>
void run_task(const PagedAttentionArgs& a, const Task& task, const Task* following, const Sequence& sequence, int num_heads) {
    const int64_t group = a.heads / a.kv_heads, left = sequence.num_rows - task.first_row;
    const int num_rows = left < kMaxRows ? static_cast<int>(left) : kMaxRows;
    const int dim = static_cast<int>(a.head_dim);
    AttentionState state;
    state.cap = a.cap;
    state.has_slopes = a.slopes != nullptr;
    int64_t positions[kMaxRows] = {}, out_offsets[kMaxRows];
    for (int i = 0; i < num_heads * num_rows; ++i) {
        const int64_t row = task.first_row + i % num_rows, query = row / group;
        const int64_t head = (task.kv_head + i / num_rows) * group + row % group;
        positions[i % num_rows] = sequence.first_position + query;
        out_offsets[i] = (sequence.first_query + query) * a.out_stride[0] + head * a.out_stride[1];
        const float* q = a.q + (sequence.first_query + query) * a.q_stride[0] + head * a.q_stride[1];
        for (int d = 0; d < dim; ++d) state.q[i][d] = q[d] * a.scale;
        for (int d = 0; d < dim + VecF::width; ++d) state.sum[i][d] = 0.0f;
        state.max[i] = a.sinks == nullptr ? -__builtin_inff() : a.sinks[head];  // a sink weighs 1, as high as the highest score
        state.total[i] = a.sinks == nullptr ? 0.0f : 1.0f;
        if (a.slopes != nullptr) state.slopes[i] = a.slopes[head];
    }
    attend_rows<T>(a, task, following, state, positions, num_rows, num_heads);
    for (int i = 0; i < num_heads * num_rows; ++i)
        finish_row<T>(a.out + out_offsets[i], state.sum[i], state.total[i], dim);
}

// The tasks of a call cut into pieces of about equal cost: piece i is the tasks from starts[i] up to starts[i + 1].
struct Pieces {
    static constexpr int kMax = 1024;
    Task starts[kMax + 1];
    int count;
    int64_t cost;  // of a piece, about
};

// At least the cost of all tasks: every row counted as if it were its sequence's last.
int64_t cost_bound(const PagedAttentionArgs& a) {
    int64_t total = 0;
    for (int64_t s = 0; s < a.sequences; ++s) {
        const Sequence sequence = sequence_at(a, s);
        const int64_t full_tasks = sequence.num_rows / kMaxRows, rest = sequence.num_rows % kMaxRows;
        const int64_t last = a.context_lens[s] - 1;
        total += a.kv_heads * full_tasks * rows_cost(a, last, kMaxRows);
        if (rest > 0) total += a.kv_heads * rows_cost(a, last, rest);
    }
    return total;
}

void cut_into_pieces(const PagedAttentionArgs& a, Pieces& pieces) {
    constexpr int64_t kLeastCost = 8192;  // about 20 microseconds
    const int64_t wanted = 8 * max_threads() < Pieces::kMax ? 8 * max_threads() : Pieces::kMax - 1;
    const int64_t even_cost = cost_bound(a) / wanted + 1;
    pieces.cost = even_cost > kLeastCost ? even_cost : kLeastCost;
    const int64_t group = a.heads / a.kv_heads;
    pieces.count = 0;
    int64_t cost = pieces.cost;  // so that the first task starts a piece
    Task task = {0, 0, 0};
    for (int64_t s = 0; s < a.sequences; ++s) {
        const Sequence sequence = sequence_at(a, s);
        if (sequence.num_rows == 0) continue;
        const int64_t num_heads = heads_at_once(a, sequence, pieces.cost);
        task = {s, 0, 0};
        do {
            if (cost >= pieces.cost) {
                pieces.starts[pieces.count++] = task;
                cost = 0;
            }
            const int64_t left = sequence.num_rows - task.first_row, num_rows = left < kMaxRows ? left : kMaxRows;
            cost += num_heads * rows_cost(a, sequence.first_position + (task.first_row + num_rows - 1) / group, num_rows);
        } while (next_task(a, task, sequence, num_heads));
    }
    pieces.starts[pieces.count] = {a.sequences, 0, 0};
}

bool before(const Task& x, const Task& y) {
    if (x.sequence != y.sequence) return x.sequence < y.sequence;
    return x.kv_head != y.kv_head ? x.kv_head < y.kv_head : x.first_row < y.first_row;
}

template <class T>
void run_pieces(const PagedAttentionArgs& a) {
    Pieces pieces;
    cut_into_pieces(a, pieces);
    parallel_for(pieces.count, 1, [&](int64_t begin, int64_t end) {
        Task task = pieces.starts[begin];
        while (before(task, pieces.starts[end])) {
            const Sequence sequence = sequence_at(a, task.sequence);
            const int64_t at_once = heads_at_once(a, sequence, pieces.cost), left = a.kv_heads - task.kv_head;
            Task following = task;
            next_task(a, following, sequence, at_once);
            while (before(following, pieces.starts[end]) && sequence_at(a, following.sequence).num_rows == 0)
                ++following.sequence;
            run_task<T>(a, task, before(following, pieces.starts[end]) ? &following : nullptr, sequence,
                        static_cast<int>(at_once < left ? at_once : left));
            task = following;
        }
    });
}

}  // namespace

void paged_attention(const PagedAttentionArgs& a) {
    if (a.type == KVType::float32) {
        run_pieces<float>(a);
    } else if (a.type == KVType::bfloat16) {
        run_pieces<uint16_t>(a);
    } else {
        run_pieces<int8_t>(a);
    }
}

}  // namespace pagecli::PAGECLI_ISA
