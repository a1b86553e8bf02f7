// What a step says of its sequences, checked before attention trusts it.
#pragma once

#include "pagecli/attention/paged_attention.h"

namespace pagecli {

// Rows, lengths and every block a sequence's visible tokens lie in; ValueError where one is out of range. Of `args` it reads the
// arrays of the step, how many sequences there are, block_size and window.
void check_sequences(const PagedAttentionArgs& args, int64_t num_tokens, int64_t max_blocks, int64_t num_blocks);

}  // namespace pagecli
