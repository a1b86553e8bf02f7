// Plain memory copies, the same on every instruction set. In order and on one thread: a pair may read what another wrote, and
// a call is a few blocks of one layer.
#include "pagecli/attention/copy_blocks.h"

#include <string.h>

namespace pagecli {

void copy_blocks(const CopyBlocksArgs& a) {
    for (int64_t i = 0; i < a.num_pairs; ++i) {
        const int64_t source = a.pairs[2 * i], target = a.pairs[2 * i + 1];
        memmove(a.target + target * a.block_bytes, a.source + source * a.block_bytes, static_cast<size_t>(a.block_bytes));
    }
}

}  // namespace pagecli
