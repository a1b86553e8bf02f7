// The update of LoRA adapters, row by row: the two matrices of a layer are small enough to stay in the second-level cache.
#include "isa/vec.h"
#include "pagecli/adapters/low_rank.h"
#include "parallel.h"

namespace pagecli::PAGECLI_ISA {
namespace {

constexpr int kRanks = 4;  // rows of a at once: x is read once for them

// inner[r] = x . a[r] for `count` rows of a, at most kRanks.
void inner_products(float* inner, const float* x, const float* a, int64_t k, int count) {
    const int64_t whole = k - k % VecF::width;
    const int rest = static_cast<int>(k - whole);
    VecF sums[kRanks] = {zero(), zero(), zero(), zero()};
    for (int64_t i = 0; i < whole; i += VecF::width) {
        const VecF v = load(x + i);
        PAGECLI_UNROLL for (int r = 0; r < kRanks; ++r) sums[r] = fmadd(v, load(a + (r < count ? r : 0) * k + i), sums[r]);
    }
    if (rest > 0) {
        const VecF v = load_partial(x + whole, rest);
        for (int r = 0; r < count; ++r) sums[r] = fmadd(v, load_partial(a + r * k + whole, rest), sums[r]);
    }
    for (int r = 0; r < count; ++r) inner[r] = reduce_add(sums[r]);
}

// out += inner @ b, `count` rows of b, at most kRanks.
void add_rows(float* out, const float* inner, const float* b, int64_t n, int count) {
    const int64_t whole = n - n % VecF::width;
    const int rest = static_cast<int>(n - whole);
    for (int64_t i = 0; i < whole; i += VecF::width) {
        VecF sum = load(out + i);
        for (int r = 0; r < count; ++r) sum = fmadd(broadcast(inner[r]), load(b + r * n + i), sum);
        store(out + i, sum);
    }
    if (rest > 0) {
        VecF sum = load_partial(out + whole, rest);
        for (int r = 0; r < count; ++r) sum = fmadd(broadcast(inner[r]), load_partial(b + r * n + whole, rest), sum);
        store_partial(out + whole, sum, rest);
    }
}

void update_row(const LowRankArgs& args, int64_t t) {
    const int32_t adapter = args.adapter_ids[t];
    if (adapter < 0) return;
    const float* x = args.x + t * args.x_stride;
    float* out = args.out + t * args.out_stride;
    const int64_t last = args.starts[adapter + 1];
    for (int64_t first = args.starts[adapter]; first < last; first += kRanks) {
        const int count = static_cast<int>(last - first < kRanks ? last - first : kRanks);
        float inner[kRanks];
        inner_products(inner, x, args.a + first * args.k, args.k, count);
        add_rows(out, inner, args.b + first * args.n, args.n, count);
    }
}

}  // namespace

void low_rank(const LowRankArgs& args) {
    if (args.adapter_ids == nullptr) return;
    constexpr int64_t kUsualRank = 16;
    parallel_for(args.tokens, row_grain(kUsualRank * (args.n + args.k)), [&args](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t) update_row(args, t);
    });
}

}  // namespace pagecli::PAGECLI_ISA
