// Sampling without a sort. What the filters keep is every token above some probability, and the first few of those equal to it:
// that border is found by three passes of a radix selection over the bits of the weights e^((x - max) / temperature), whose order
// as integers is their order as numbers; tokens that are clearly out are dropped before. The draw then walks the kept weights in
// the order of the vocabulary.
#include "pagecli/sample.h"

#include "parallel.h"
#include "scratch.h"
#include "vec_math.h"

namespace pagecli::PAGECLI_ISA {
namespace {

constexpr int64_t kGroup = 64;  // neighbouring tokens whose sum and largest weight are kept, to pass over them
constexpr int kBins = 2048;

struct Bins {
    double mass[kBins];
    int64_t count[kBins];
};

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

PAGECLI_INLINE uint32_t weight_bits(float weight) {
    uint32_t u;
    memcpy(&u, &weight, sizeof u);
    return u & 0x7fffffffu;
}

float largest(const float* x, int64_t count) {
    VecF highest = broadcast(-__builtin_inff());
    int64_t i = 0;
    for (; i + VecF::width <= count; i += VecF::width) highest = max(load(x + i), highest);
    float best = reduce_max(highest);
    for (; i < count; ++i) best = x[i] > best ? x[i] : best;
    return best;
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

// The border below which `limit` tokens (by_mass: less than `limit` of the mass) lie above. Three digits of 11, 11 and 9 bits.
template <bool by_mass>
Border find_border(const Kept& kept, double limit, Bins& bins) {
    constexpr int shifts[] = {20, 9, 0}, widths[] = {11, 11, 9};
    uint32_t prefix = 0;
    double above = 0.0;  // mass or count of what is surely kept
    for (int digit = 0; digit < 3; ++digit) {
        const int shift = shifts[digit], size = 1 << widths[digit];
        memset(bins.mass, 0, sizeof(double) * static_cast<size_t>(size));
        memset(bins.count, 0, sizeof(int64_t) * static_cast<size_t>(size));
        for (int64_t i = 0; i < kept.count; ++i) {
            const uint32_t u = weight_bits(kept.weight[i]);
            if (digit > 0 && (u >> (shift + widths[digit])) != prefix) continue;
            const uint32_t bin = (u >> shift) & static_cast<uint32_t>(size - 1);
            bins.count[bin] += 1;
            bins.mass[bin] += static_cast<double>(kept.weight[i]);
        }
        int bin = size - 1, lowest = size - 1;
        for (; bin >= 0; --bin) {
            if (bins.count[bin] == 0) continue;
            const double here = by_mass ? bins.mass[bin] : static_cast<double>(bins.count[bin]);
            lowest = bin;
            if (above + here >= limit) break;
            above += here;
        }
        if (bin < 0) {  // rounding: all of them together are just short of the limit
            bin = lowest;
            above -= by_mass ? bins.mass[bin] : static_cast<double>(bins.count[bin]);
        }
        prefix = prefix << widths[digit] | static_cast<uint32_t>(bin);
    }
    const int64_t equal = bins.count[prefix & 511u];
    const double each = by_mass ? bins.mass[prefix & 511u] / static_cast<double>(equal > 0 ? equal : 1) : 1.0;
    int64_t ties = 1;
    while (ties < equal && above + static_cast<double>(ties) * each < limit) ++ties;
    return {prefix, ties};
}

void keep_above(Kept& kept, Border border) {
    int64_t count = 0;
    double mass = 0.0;
    for (int64_t i = 0; i < kept.count; ++i) {
        const float weight = kept.weight[i];
        const uint32_t u = weight_bits(weight);
        if (u < border.bits || (u == border.bits && border.ties-- <= 0)) continue;
        kept.index[count] = kept.index[i];
        kept.weight[count] = weight;
        mass += static_cast<double>(weight);
        ++count;
    }
    kept.count = count;
    kept.mass = mass;
}

int64_t num_groups(int64_t cols) { return (cols + kGroup - 1) / kGroup; }

int64_t padded(int64_t cols) { return (cols + 15) / 16 * 16; }

// The calling thread's memory for one row, cut up.
struct Workspace {
    Bins* bins;
    float* sums;     // [num_groups(cols)]
    float* largest;  // [num_groups(cols)]
    float* copy;     // [num_groups(cols)]
    Kept kept;

    explicit Workspace(int64_t cols) {
        const int64_t group_floats = padded(num_groups(cols)), row_floats = padded(cols);
        const int64_t bytes = static_cast<int64_t>(sizeof(Bins)) + 4 * (3 * group_floats + 2 * row_floats);
        char* at = static_cast<char*>(thread_scratch(bytes));
        bins = reinterpret_cast<Bins*>(at);
        sums = reinterpret_cast<float*>(at + sizeof(Bins));
        largest = sums + group_floats;
        copy = largest + group_floats;
        kept.weight = copy + group_floats;
        kept.index = reinterpret_cast<int32_t*>(kept.weight + row_floats);
    }
};

void weigh(Workspace& work, const float* logits, int64_t cols, float temperature) {
    const float highest = largest(logits, cols), inverse = 1.0f / temperature;
    double mass = 0.0;
    for (int64_t first = 0; first < cols; first += kGroup) {
        const int64_t count = cols - first < kGroup ? cols - first : kGroup, group = first / kGroup;
        weigh_group(work.kept.weight + first, logits + first, count, highest, inverse, &work.sums[group], &work.largest[group]);
        mass += static_cast<double>(work.sums[group]);
    }
    work.kept.count = cols;
    work.kept.mass = mass;
}

// A weight below which the filters keep nothing, cheap to find and not far below the border.
float lower_bound(Workspace& work, int64_t top_k, float top_p, float min_p) {
    const int64_t cols = work.kept.count, groups = num_groups(cols);
    if (top_k > 0) {  // the k-th largest of the groups' largest: at least k tokens weigh that much
        if (top_k > groups) return 0.0f;
        memcpy(work.copy, work.largest, static_cast<size_t>(groups) * sizeof(float));
        const Kept maxima = {work.copy, nullptr, groups, 0.0};
        const Border border = find_border<false>(maxima, static_cast<double>(top_k), *work.bins);
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
        const int64_t end = first + kGroup < kept.count ? first + kGroup : kept.count;
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
    return first + pick(work.kept.weight + first, cols - first < kGroup ? cols - first : kGroup, before, target);
}

int64_t sample_row(Workspace& work, const SampleArgs& a, int64_t row) {
    const int64_t top_k = a.top_k[row] < a.cols ? a.top_k[row] : 0;
    const float top_p = a.top_p[row], min_p = a.min_p[row];
    const double draw = static_cast<double>(a.draws[row]) * 0x1p-53;
    weigh(work, a.logits + row * a.logits_stride, a.cols, a.temperature[row]);
    if (top_k <= 0 && !(top_p < 1.0f) && !(min_p > 0.0f)) return pick_from_all(work, draw);
    Kept& kept = work.kept;
    keep_from(work, lower_bound(work, top_k, top_p, min_p));
    if (top_k > 0) keep_above(kept, find_border<false>(kept, static_cast<double>(top_k), *work.bins));
    if (top_p < 1.0f) keep_above(kept, find_border<true>(kept, static_cast<double>(top_p) * kept.mass, *work.bins));
    keep_above(kept, {weight_bits(min_p), kept.count});  // the likeliest weighs 1
    if (kept.count == 0) return 0;  // logits of NaN
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
