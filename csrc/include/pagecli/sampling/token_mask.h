// Token masks: which outputs of a row may be chosen, one bit each; output n is bit n % 32 of word n / 32, and bits beyond the last
// output are 0. A batch has some masks and says for each row which is its own.
#pragma once

#include <stdint.h>

namespace pagecli {

constexpr int64_t mask_words(int64_t cols) { return (cols + 31) / 32; }

struct TokenMasks {
    const uint32_t* words;   // [number of masks, mask_words(cols)]
    const int32_t* mask_of;  // [rows]: a row of words; -1: everything is allowed
};

// Of row `row`; null where everything is allowed.
inline const uint32_t* mask_of_row(const TokenMasks& masks, int64_t row, int64_t cols) {
    return masks.mask_of[row] < 0 ? nullptr : masks.words + masks.mask_of[row] * mask_words(cols);
}

// The output that a mask allows alone; -1 where it allows none, -2 where it allows several.
inline int64_t only_allowed(const uint32_t* mask, int64_t cols) {
    int64_t only = -1;
    for (int64_t word = 0; word < mask_words(cols); ++word) {
        if (mask[word] == 0) continue;
        if (only >= 0 || (mask[word] & (mask[word] - 1)) != 0) return -2;
        only = word * 32 + __builtin_ctz(mask[word]);
    }
    return only;
}

}  // namespace pagecli
