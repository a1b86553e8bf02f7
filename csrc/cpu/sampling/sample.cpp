// Sampling without a sort. What the filters keep is every token above some weight e^((x - max) / temperature), and the first
// few of those equal to it: that border is found by bisection over the bits of a float (31 of them, ordered as the weights
// are), each step one vectorized pass over the weights that are not clearly out, which says too between which two of them the
// step has cut. The draw then walks the kept ones in the order of the vocabulary.
#include "pagecli/sampling/sample.h"

#include "highest_logit.h"
#include "isa/vec_math.h"
#include "parallel.h"
#include "scratch.h"

namespace pagecli::PAGECLI_ISA {
namespace {

constexpr int64_t kGroup = 64;  // neighbouring tokens whose sum and largest weight are kept, to pass over them
constexpr int64_t kStep = 4 * VecF::width;  // weights that are measured at a time: four sums, none waits for its own last addition
// The weights that are still in, and which tokens they are of, in the order of the vocabulary.
struct Kept {
    float* weight;   // [count]
    int32_t* index;  // [count]
    int64_t count;
    double mass;
};

// Weights above `bits` are kept, and the first `ties` of those equal to it.
struct Border {
    uint32_t bits;
    int64_t ties;
};

PAGECLI_INLINE int64_t min_int64(int64_t a, int64_t b) { return a < b ? a : b; }

PAGECLI_INLINE uint32_t weight_bits(float weight) {
    uint32_t u;
    memcpy(&u, &weight, sizeof u);
    return u & 0x7fffffffu;
}

// weight[i] = e^((x[i] - highest) / temperature) of one group; their sum and the largest of them.
void weigh_group(float* weight, const float* x, int64_t count, float highest, float inverse_temperature, float* sum,
                 float* largest_weight) {
    const VecF shift = broadcast(highest), scale = broadcast(inverse_temperature);
    VecF total = zero(), most = zero();
    for (int64_t i = 0; i < count; i += VecF::width) {
        const int lanes = count - i < VecF::width ? static_cast<int>(count - i) : VecF::width;
        VecF e;
        if (lanes == VecF::width) {
            e = exp((load(x + i) - shift) * scale);
            store(weight + i, e);
        } else {
            store_partial(weight + i, exp((load_partial(x + i, lanes) - shift) * scale), lanes);
            e = load_partial(weight + i, lanes);
        }
        total = total + e;
        most = max(e, most);
    }
    *sum = reduce_add(total);
    *largest_weight = reduce_max(most);
}

// Of the weights that are some bits or more: how many, or how much they weigh together; and the bits of the least of them, and of
// the largest of the others.
struct Measured {
    double found;
    uint32_t least_in, largest_out;
};

// Of `bits` (above 0) or more; `found` is never more for larger bits, rounding included. `count`: a multiple of kStep.
template <bool by_mass>
Measured measure(const float* weight, int64_t count, uint32_t bits) {
    constexpr int64_t kStretch = 512;  // float sums within, a double sum over them
    float least;
    memcpy(&least, &bits, sizeof least);
    const VecF border = broadcast(least), one = broadcast(1.0f), above_all = broadcast(2.0f);
    VecF least_in = above_all, largest_out = zero();
    double total = 0.0;
    for (int64_t i = 0; i < count;) {
        VecF sums[4] = {zero(), zero(), zero(), zero()};
        for (const int64_t end = min_int64(i + kStretch, count); i < end; i += kStep) {
            for (int lane = 0; lane < 4; ++lane) {
                const VecF w = load(weight + i + lane * VecF::width);
                sums[lane] = sums[lane] + select_less(w, border, zero(), by_mass ? w : one);
                least_in = min(select_less(w, border, above_all, w), least_in);
                largest_out = max(select_less(w, border, w, zero()), largest_out);
            }
        }
        total += static_cast<double>(reduce_add((sums[0] + sums[1]) + (sums[2] + sums[3])));
    }
    return {total, weight_bits(-reduce_max(zero() - least_in)), weight_bits(reduce_max(largest_out))};
}

// The border above which lie the fewest weights that reach `limit`: so many of them, or (by_mass) so much of their mass. Zeros
// are written behind the weights, up to a multiple of kStep.
template <bool by_mass>
Border find_border(float* weight, int64_t count, double limit) {
    int64_t padded_count = count;
    while (padded_count % kStep != 0) weight[padded_count++] = 0.0f;
    uint32_t low = 0, high = 0x3f800001u;  // just above 1, the largest weight
    while (high - low > 1) {
        const uint32_t middle = low + (high - low) / 2;
        const Measured at = measure<by_mass>(weight, padded_count, middle);
        if (!by_mass && at.found == limit) return {middle, count};  // no fewer, whichever weight is the least of them
        if (at.found >= limit) low = at.least_in;  // no weight lies between
        else high = at.largest_out + 1;
    }
    if (low == 0) return {0, count};  // rounding: all of them are just short of the limit
    float each;
    memcpy(&each, &low, sizeof each);
    const double above = measure<by_mass>(weight, padded_count, low + 1).found;
    int64_t ties = 1;
    while (ties < count && above + static_cast<double>(ties) * (by_mass ? static_cast<double>(each) : 1.0) < limit) ++ties;
    return {low, ties};
}

void keep_above(Kept& kept, Border border) {
    int64_t count = 0;
    for (int64_t i = 0; i < kept.count; ++i) {  // without a branch: which are kept follows no pattern
        const float weight = kept.weight[i];
        const uint32_t u = weight_bits(weight);
        const bool is_tie = u == border.bits;
        kept.index[count] = kept.index[i];
        kept.weight[count] = weight;
        count += static_cast<int64_t>(u > border.bits) | static_cast<int64_t>(is_tie && border.ties > 0);
        border.ties -= is_tie;
    }
    kept.count = count;
    kept.mass = 0.0;
    for (int64_t i = 0; i < count; ++i) kept.mass += static_cast<double>(kept.weight[i]);
}

int64_t num_groups(int64_t cols) { return (cols + kGroup - 1) / kGroup; }

int64_t padded(int64_t cols) { return (cols + 63) / 64 * 64; }  // a multiple of kStep and of a cache line
static_assert(64 % kStep == 0);

// The calling thread's memory for one row, cut up.
struct Workspace {
    float* sums;     // [num_groups(cols)]
    float* largest;  // [num_groups(cols)]
    Kept kept;

    explicit Workspace(int64_t cols) {
        const int64_t group_floats = padded(num_groups(cols)), row_floats = padded(cols);
        sums = static_cast<float*>(thread_scratch(4 * (2 * group_floats + 2 * row_floats)));
        largest = sums + group_floats;
        kept.weight = largest + group_floats;
        kept.index = reinterpret_cast<int32_t*>(kept.weight + row_floats);
    }
};

void weigh(Workspace& work, const float* logits, int64_t cols, float highest, float temperature) {
    const float inverse = 1.0f / temperature;
    double mass = 0.0;
    for (int64_t first = 0; first < cols; first += kGroup) {
        const int64_t count = min_int64(cols - first, kGroup), group = first / kGroup;
        weigh_group(work.kept.weight + first, logits + first, count, highest, inverse, &work.sums[group], &work.largest[group]);
        mass += static_cast<double>(work.sums[group]);
    }
    work.kept.count = cols;
    work.kept.mass = mass;
}

// A weight below which the filters keep nothing, cheap to find and not far below the border.
float lower_bound(const Workspace& work, int64_t top_k, float top_p, float min_p) {
    const int64_t cols = work.kept.count, groups = num_groups(cols);
    if (top_k > 0) {  // the k-th largest of the groups' largest: at least k tokens weigh that much
        if (top_k > groups) return 0.0f;
        const Border border = find_border<false>(work.largest, groups, static_cast<double>(top_k));
        float bound;
        memcpy(&bound, &border.bits, sizeof bound);
        return bound;
    }
    if (top_p < 1.0f)  // all tokens below it together weigh less than what top-p may leave out
        return 0.999f * (1.0f - top_p) * static_cast<float>(work.kept.mass / static_cast<double>(cols));
    return min_p;
}

// Keep the weights from `bound` on, whole groups passed over by their largest.
void keep_from(Workspace& work, float bound) {
    Kept& kept = work.kept;
    int64_t count = 0;
    for (int64_t first = 0; first < kept.count; first += kGroup) {
        if (work.largest[first / kGroup] < bound) continue;
        const int64_t end = min_int64(first + kGroup, kept.count);
        for (int64_t i = first; i < end; ++i) {
            const float weight = kept.weight[i];
            if (weight < bound) continue;
            kept.weight[count] = weight;
            kept.index[count] = static_cast<int32_t>(i);
            ++count;
        }
    }
    kept.count = count;
}

// The token at which the running sum of the kept weights passes draw * mass; the last one with any weight if rounding hides it.
int64_t pick(const float* weight, int64_t count, double before, double target) {
    int64_t chosen = 0;
    for (int64_t i = 0; i < count; ++i) {
        const double here = static_cast<double>(weight[i]);
        if (!(here > 0.0)) continue;
        chosen = i;
        before += here;
        if (before > target) break;
    }
    return chosen;
}

// No filter: whole groups are passed over by their sums.
int64_t pick_from_all(const Workspace& work, double draw) {
    const int64_t cols = work.kept.count, groups = num_groups(cols);
    const double target = draw * work.kept.mass;
    double before = 0.0;
    int64_t at = 0, last_with_weight = 0;
    for (; at < groups; ++at) {
        const double here = static_cast<double>(work.sums[at]);
        if (here > 0.0) last_with_weight = at;
        if (before + here > target) break;
        before += here;
    }
    if (at == groups) {
        at = last_with_weight;
        before -= static_cast<double>(work.sums[at]);
    }
    const int64_t first = at * kGroup;
    return first + pick(work.kept.weight + first, min_int64(cols - first, kGroup), before, target);
}

int64_t first_equal(const float* x, float value) {
    int64_t i = 0;
    while (x[i] != value) ++i;
    return i;
}

int64_t sample_row(Workspace& work, const SampleArgs& a, int64_t row) {
    const float* logits = a.logits + row * a.logits_stride;
    HighestLogit seen = no_logits();
    see(seen, logits, a.cols);
    const float highest = reduce_max(seen.highest);
    if (!all_usable(seen) || highest == -__builtin_inff()) return -1;
    if (a.temperature[row] < kMinTemperature || a.top_p[row] <= 0.0f || a.top_k[row] == 1) return first_equal(logits, highest);
    const int64_t top_k = a.top_k[row] < a.cols ? a.top_k[row] : 0;
    const float top_p = a.top_p[row], min_p = a.min_p[row];
    const double draw = static_cast<double>(a.draws[row]) * 0x1p-53;
    weigh(work, logits, a.cols, highest, a.temperature[row]);
    if (top_k <= 0 && !(top_p < 1.0f) && !(min_p > 0.0f)) return pick_from_all(work, draw);
    Kept& kept = work.kept;
    keep_from(work, lower_bound(work, top_k, top_p, min_p));
    if (top_k > 0) keep_above(kept, find_border<false>(kept.weight, kept.count, static_cast<double>(top_k)));
    if (top_p < 1.0f) keep_above(kept, find_border<true>(kept.weight, kept.count, static_cast<double>(top_p) * kept.mass));
    if (min_p > 0.0f) keep_above(kept, {weight_bits(min_p), kept.count});  // the likeliest weighs 1
    return kept.index[pick(kept.weight, kept.count, 0.0, draw * kept.mass)];
}

}  // namespace

void sample(const SampleArgs& a) {
    parallel_for(a.rows, row_grain(4 * a.cols), [&a](int64_t begin, int64_t end) {
        Workspace work(a.cols);
        for (int64_t row = begin; row < end; ++row) a.out[row] = sample_row(work, a, row);
    });
}

}  // namespace pagecli::PAGECLI_ISA
