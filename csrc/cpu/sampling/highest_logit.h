// What choosing a token looks for first in a row of logits: the highest one, and whether a token can be chosen at all.
#pragma once

#include <stdint.h>

#include "isa/vec.h"

namespace pagecli::PAGECLI_ISA {

// Of the logits seen so far. `refused` is above 0 in a lane that saw NaN or +inf; -inf is a token that is never chosen.
struct HighestLogit {
    VecF highest, refused;
};

PAGECLI_INLINE HighestLogit no_logits() { return {broadcast(-__builtin_inff()), zero()}; }

PAGECLI_INLINE void see(HighestLogit& seen, VecF x) {
    seen.highest = max(x, seen.highest);  // of NaN and a number: the number
    seen.refused = select_less(x, broadcast(__builtin_inff()), seen.refused, broadcast(1.0f));
}

PAGECLI_INLINE void see(HighestLogit& seen, const float* x, int64_t count) {
    int64_t i = 0;
    for (; i + VecF::width <= count; i += VecF::width) see(seen, load(x + i));
    for (; i < count; ++i) see(seen, broadcast(x[i]));
}

// Whether none was NaN or +inf.
PAGECLI_INLINE bool all_usable(const HighestLogit& seen) { return reduce_max(seen.refused) == 0.0f; }

}  // namespace pagecli::PAGECLI_ISA
