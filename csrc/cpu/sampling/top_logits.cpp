// One pass for each result. The largest few are kept in order as they are found; a stretch of logits none of which can be among
// them is passed over by vectors.
#include "pagecli/sampling/top_logits.h"

#include <math.h>

#include "highest_logit.h"
#include "isa/vec_math.h"
#include "parallel.h"

namespace pagecli::PAGECLI_ISA {
namespace {

constexpr int64_t kStretch = 64;

float largest_of(const float* x, int64_t count) {
    HighestLogit seen = no_logits();
    see(seen, x, count);
    return reduce_max(seen.highest);
}

// The largest logits so far, largest first.
struct Top {
    int64_t* ids;
    float* values;
    int64_t count, num;
    float bound;  // so many logits as are wanted are this or more

    bool may_enter(float value) const { return value >= bound && (num < count || value > values[count - 1]); }

    void enter(int64_t id, float value) {
        int64_t place = num < count ? num++ : count - 1;
        for (; place > 0 && values[place - 1] < value; --place) {
            values[place] = values[place - 1];
            ids[place] = ids[place - 1];
        }
        values[place] = value;
        ids[place] = id;
    }
};

// The count-th largest of the lanes' largest logits: each is of other logits than the others'.
float bound_of(const VecF lanes, int64_t count) {
    if (count > VecF::width) return -__builtin_inff();
    float largest[VecF::width];
    store(largest, lanes);
    for (int64_t i = 0; i < count; ++i) {
        int64_t most = i;
        for (int64_t j = i + 1; j < VecF::width; ++j) most = largest[j] > largest[most] ? j : most;
        const float value = largest[most];
        largest[most] = largest[i];
        largest[i] = value;
    }
    return largest[count - 1];
}

// `lanes`: the largest of x[lane + n * VecF::width], the last few of x left out; -inf where there is none.
void find_top(int64_t* ids, float* values, const float* x, int64_t cols, int64_t count, VecF lanes) {
    Top top = {ids, values, count, 0, bound_of(lanes, count)};
    for (int64_t first = 0; first < cols; first += kStretch) {
        const int64_t end = cols - first < kStretch ? cols : first + kStretch;
        if (!top.may_enter(largest_of(x + first, end - first))) continue;
        for (int64_t at = first; at < end; at += VecF::width) {
            const int64_t stop = end - at < VecF::width ? end : at + VecF::width;
            if (!top.may_enter(largest_of(x + at, stop - at))) continue;
            for (int64_t i = at; i < stop; ++i) {
                const float value = x[i] != x[i] ? -__builtin_inff() : x[i];
                if (top.may_enter(value)) top.enter(i, value);
            }
        }
    }
    for (int64_t place = 0; place < count; ++place) values[place] = x[ids[place]];
}

// Of e^(x - largest): floats within a stretch, doubles over them.
double sum_of_powers(const float* x, int64_t cols, float largest) {
    const VecF shift = broadcast(largest);
    double total = 0.0;
    for (int64_t first = 0; first < cols; first += kStretch) {
        const int64_t end = cols - first < kStretch ? cols : first + kStretch;
        VecF sum = zero();
        int64_t i = first;
        for (; i + VecF::width <= end; i += VecF::width) sum = sum + exp_not_positive(load(x + i) - shift);
        if (i < end) {
            float last[VecF::width];
            const int lanes = static_cast<int>(end - i);
            store_partial(last, exp_not_positive(load_partial(x + i, lanes) - shift), lanes);
            sum = sum + load_partial(last, lanes);
        }
        total += static_cast<double>(reduce_add(sum));
    }
    return total;
}

void find_normalizers(float* out, const float* x, int64_t cols, const HighestLogit& seen) {
    const float highest = reduce_max(seen.highest);
    const bool is_usable = all_usable(seen) && highest > -__builtin_inff();
    out[0] = is_usable ? highest : __builtin_nanf("");
    out[1] = is_usable ? static_cast<float>(log(sum_of_powers(x, cols, highest))) : __builtin_nanf("");
}

}  // namespace

void top_logits(const TopLogitsArgs& a) {
    parallel_for(a.num, row_grain(4 * a.cols), [&a](int64_t begin, int64_t end) {
        for (int64_t n = begin; n < end; ++n) {
            const float* x = a.logits + a.rows[n] * a.logits_stride;
            const int64_t in_lanes = a.cols / VecF::width * VecF::width;
            HighestLogit seen = no_logits();
            see(seen, x, in_lanes);
            const VecF lanes = seen.highest;
            see(seen, x + in_lanes, a.cols - in_lanes);  // in every lane
            find_normalizers(a.normalizers + 2 * n, x, a.cols, seen);
            if (a.count > 0) find_top(a.ids + n * a.count, a.values + n * a.count, x, a.cols, a.count, lanes);
        }
    });
}

}  // namespace pagecli::PAGECLI_ISA
