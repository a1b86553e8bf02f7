// The update of LoRA adapters, for a few rows of one adapter at a time: its matrices, which lie in the second-level cache, are
// read once for them. A row's sums are in the same order in any group.
#include <utility>

#include "isa/vec.h"
#include "pagecli/adapters/low_rank.h"
#include "parallel.h"
#include "scratch.h"

namespace pagecli::PAGECLI_ISA {
namespace {

constexpr int kRanks = 4;                         // rows of a and b at once
constexpr int kRows = VecF::width >= 16 ? 4 : 2;  // that have their sums in registers together, with kRanks each

// Rows of one adapter.
struct Group {
    int32_t adapter;
    int count;
    int64_t rows[kRows];
};

// inner[i][r] = x[i] . a[r] for kCount rows of x and `count` rows of a, at most kRanks.
template <int kCount>
void inner_products(float (&inner)[kRows][kRanks], const float* const (&x)[kRows], const float* a, int64_t k, int count) {
    const int64_t whole = k - k % VecF::width;
    const int rest = static_cast<int>(k - whole);
    VecF sums[kCount][kRanks];
    PAGECLI_UNROLL for (int i = 0; i < kCount; ++i) PAGECLI_UNROLL for (int r = 0; r < kRanks; ++r) sums[i][r] = zero();
    const float* rows[kRanks];
    for (int r = 0; r < kRanks; ++r) rows[r] = a + (r < count ? r : 0) * k;
    for (int64_t at = 0; at < whole; at += VecF::width) {
        VecF v[kCount];
        PAGECLI_UNROLL for (int i = 0; i < kCount; ++i) v[i] = load(x[i] + at);
        PAGECLI_UNROLL for (int r = 0; r < kRanks; ++r) {
            const VecF down = load(rows[r] + at);
            PAGECLI_UNROLL for (int i = 0; i < kCount; ++i) sums[i][r] = fmadd(v[i], down, sums[i][r]);
        }
    }
    if (rest > 0) {
        PAGECLI_UNROLL for (int i = 0; i < kCount; ++i) {
            const VecF v = load_partial(x[i] + whole, rest);
            PAGECLI_UNROLL for (int r = 0; r < kRanks; ++r) sums[i][r] = fmadd(v, load_partial(rows[r] + whole, rest), sums[i][r]);
        }
    }
    PAGECLI_UNROLL for (int i = 0; i < kCount; ++i) PAGECLI_UNROLL for (int r = 0; r < kRanks; ++r)
        inner[i][r] = reduce_add(sums[i][r]);
}

// out[i] += inner[i] @ b for kCount rows of out and `count` rows of b, at most kRanks.
template <int kCount>
void add_rows(float* const (&out)[kRows], const float (&inner)[kRows][kRanks], const float* b, int64_t n, int count) {
    const int64_t whole = n - n % VecF::width;
    const int rest = static_cast<int>(n - whole);
    for (int64_t at = 0; at < whole; at += VecF::width) {
        VecF sums[kCount];
        PAGECLI_UNROLL for (int i = 0; i < kCount; ++i) sums[i] = load(out[i] + at);
        for (int r = 0; r < count; ++r) {
            const VecF up = load(b + r * n + at);
            PAGECLI_UNROLL for (int i = 0; i < kCount; ++i) sums[i] = fmadd(broadcast(inner[i][r]), up, sums[i]);
        }
        PAGECLI_UNROLL for (int i = 0; i < kCount; ++i) store(out[i] + at, sums[i]);
    }
    if (rest == 0) return;
    PAGECLI_UNROLL for (int i = 0; i < kCount; ++i) {
        VecF sum = load_partial(out[i] + whole, rest);
        for (int r = 0; r < count; ++r) sum = fmadd(broadcast(inner[i][r]), load_partial(b + r * n + whole, rest), sum);
        store_partial(out[i] + whole, sum, rest);
    }
}

template <int kCount>
void update(const LowRankArgs& args, const Group& group) {
    const float* x[kRows] = {};
    float* out[kRows] = {};
    for (int i = 0; i < kCount; ++i) {
        x[i] = args.x + group.rows[i] * args.x_stride;
        out[i] = args.out + group.rows[i] * args.out_stride;
    }
    const int64_t last = args.starts[group.adapter + 1];
    for (int64_t first = args.starts[group.adapter]; first < last; first += kRanks) {
        const int count = static_cast<int>(last - first < kRanks ? last - first : kRanks);
        float inner[kRows][kRanks];
        inner_products<kCount>(inner, x, args.a + first * args.k, args.k, count);
        add_rows<kCount>(out, inner, args.b + first * args.n, args.n, count);
    }
}

template <int... kCounts>
void update_group(const LowRankArgs& args, const Group& group, std::integer_sequence<int, kCounts...>) {
    ((group.count == kCounts + 1 ? update<kCounts + 1>(args, group) : void()), ...);
}

// The rows that have an adapter, grouped in their order into `groups`; returns how many groups. `open`: for each adapter the
// group that is not full, or -1.
int64_t group_rows(Group* groups, int64_t* open, const LowRankArgs& args) {
    int64_t num_groups = 0;
    for (int64_t t = 0; t < args.tokens; ++t) {
        const int32_t adapter = args.adapter_ids[t];
        if (adapter < 0) continue;
        if (open[adapter] < 0) {
            open[adapter] = num_groups;
            groups[num_groups++] = {adapter, 0, {}};
        }
        Group& group = groups[open[adapter]];
        group.rows[group.count++] = t;
        if (group.count == kRows) open[adapter] = -1;
    }
    return num_groups;
}

}  // namespace

void low_rank(const LowRankArgs& args) {
    if (args.adapter_ids == nullptr) return;
    int64_t adapters = 0, rows = 0;
    for (int64_t t = 0; t < args.tokens; ++t) {
        if (args.adapter_ids[t] >= adapters) adapters = args.adapter_ids[t] + 1;
        rows += args.adapter_ids[t] >= 0;
    }
    if (rows == 0) return;
    const int64_t bytes = rows * static_cast<int64_t>(sizeof(Group)), of_open = adapters * static_cast<int64_t>(sizeof(int64_t));
    Group* groups = static_cast<Group*>(thread_scratch(bytes + of_open, ScratchUse::gathered));
    int64_t* open = reinterpret_cast<int64_t*>(groups + rows);
    for (int64_t i = 0; i < adapters; ++i) open[i] = -1;
    const int64_t num_groups = group_rows(groups, open, args);
    constexpr int64_t kUsualRank = 16;
    const int64_t grain = row_grain(kUsualRank * (args.n + args.k) * kRows / 2);  // a row of a full group takes half the time
    parallel_for(num_groups, grain, [&args, groups](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) update_group(args, groups[i], std::make_integer_sequence<int, kRows>());
    });
}

}  // namespace pagecli::PAGECLI_ISA
