// copy_blocks: whole blocks from one cache tensor to another, or within one: copy-on-write, swapping out and in.
#pragma once

#include <stdint.h>

namespace pagecli {

struct CopyBlocksArgs {
    char* target;          // [target_blocks, block_bytes]
    const char* source;    // [source_blocks, block_bytes]; may be the target
    const int64_t* pairs;  // [num_pairs, 2]: source block, target block; later pairs see what earlier ones wrote
    int64_t num_pairs, block_bytes;
};

void copy_blocks(const CopyBlocksArgs& args);

}  // namespace pagecli
