// What follows the sums of linear_argmax: each row's largest sum so far and where it was, as one key that grows with the value
// and, of equal values, with nearness to the first column. The largest key is the same in whatever order threads come by it.
#pragma once

#include <stdint.h>
#include <string.h>

#include "linear_run.h"
#include "pagecli/linear/linear.h"
#include "pagecli/linear/linear_argmax.h"
#include "sampling/highest_logit.h"

namespace pagecli::PAGECLI_ISA {

constexpr uint64_t kRefused = ~uint64_t{0};  // the key of a row with a sum that is NaN or +inf

// Above 0 for every value that is a number, and below kRefused; 0 stands for none.
PAGECLI_INLINE uint64_t key_of(float value, int64_t index) {
    const float one_zero = value + 0.0f;  // -0 and 0 are equal values
    uint32_t u;
    memcpy(&u, &one_zero, sizeof u);
    const uint32_t ascending = (u & 0x80000000u) != 0 ? ~u : u | 0x80000000u;
    return uint64_t{ascending} << 32 | static_cast<uint32_t>(~static_cast<uint32_t>(index));
}

// Of a key above 0.
PAGECLI_INLINE float value_of(int64_t key) {
    const uint32_t ascending = static_cast<uint32_t>(static_cast<uint64_t>(key) >> 32);
    const uint32_t u = (ascending & 0x80000000u) != 0 ? ascending & 0x7fffffffu : ~ascending;
    float value;
    memcpy(&value, &u, sizeof value);
    return value;
}

PAGECLI_INLINE int64_t index_of(int64_t key) { return key == 0 ? 0 : static_cast<int64_t>(~static_cast<uint32_t>(key)); }

// What argmax gives for a row with this key: -1 where no token can be chosen.
PAGECLI_INLINE int64_t token_of(int64_t key) {
    const bool refused = static_cast<uint64_t>(key) == kRefused;
    return key == 0 || refused || value_of(key) == -__builtin_inff() ? -1 : index_of(key);
}

PAGECLI_INLINE void raise_to(int64_t* key, uint64_t candidate) {
    int64_t seen = __atomic_load_n(key, __ATOMIC_RELAXED);
    while (static_cast<uint64_t>(seen) < candidate &&
           !__atomic_compare_exchange_n(key, &seen, static_cast<int64_t>(candidate), true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
}

// Of the first `count` of `sums`, in memory to the next whole vector: the largest number; -inf where there is none.
PAGECLI_INLINE float largest_number(const float* sums, int count) {
    HighestLogit seen = no_logits();
    see(seen, sums, count);
    return reduce_max(seen.highest);
}

// The mask's bits of a panel's outputs.
PAGECLI_INLINE uint32_t panel_bits(const uint32_t* mask, int64_t panel) {
    return mask[panel / 2] >> (panel % 2 * kPanelWidth) & 0xffffu;
}

// sums[count] with -inf in place of what the mask leaves out; they are the outputs from `col` on, a multiple of 16. Null if it
// leaves out all of them.
PAGECLI_INLINE const float* allowed_sums(float* allowed, const float* sums, const uint32_t* mask, int64_t col, int count) {
    uint32_t any = 0;
    for (int first = 0; first < count; first += static_cast<int>(kPanelWidth)) {
        const uint32_t bits = panel_bits(mask, (col + first) / kPanelWidth);
        any |= bits;
        for (int i = 0; i < static_cast<int>(kPanelWidth); i += VecF::width)
            store(allowed + first + i, select_bits(bits >> i, load(sums + first + i), broadcast(-__builtin_inff())));
    }
    return any == 0 ? nullptr : allowed;
}

// A FinishFunction: sums[rows, cols] belongs to columns col.. of the rows row.., whose keys a.best holds.
static inline void keep_largest(const LinearArgs& a, const float* of_rows, int64_t row, int rows, int64_t col, int cols) {
    const int count = static_cast<int>(a.weight.rows - col < cols ? a.weight.rows - col : cols);
    alignas(64) float allowed[kMaxPanels * kPanelWidth];
    for (int r = 0; r < rows; ++r, of_rows += cols) {
        const uint32_t* mask = a.masks == nullptr ? nullptr : a.masks->of_row[a.first_row + row + r];
        const float* sums = mask == nullptr ? of_rows : allowed_sums(allowed, of_rows, mask, col, count);
        if (sums == nullptr) continue;
        HighestLogit seen = no_logits();
        see(seen, sums, count);
        const float best = reduce_max(seen.highest);
        int64_t* key = a.best + a.first_row + row + r;
        if (!all_usable(seen)) {
            raise_to(key, kRefused);
            continue;
        }
        if (key_of(best, 0) < static_cast<uint64_t>(__atomic_load_n(key, __ATOMIC_RELAXED)) >> 32 << 32) continue;
        for (int c = 0; c < count; ++c) {
            if (sums[c] != best) continue;
            raise_to(key, key_of(best, col + c));
            break;
        }
    }
}

}  // namespace pagecli::PAGECLI_ISA
