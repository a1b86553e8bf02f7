// Arguments of copy_blocks and swap_blocks.
#pragma once

#include "pagecli/cuda/device.h"

namespace pagecli::cuda {

// Copy whole blocks in every plane (K or V of a layer) at once; between two memories for swapping.
struct CopyBlocksArgs {
    const int64_t* planes;  // on the device: [num_planes, 2]: addresses of the target's and the source's block 0
    const int64_t* pairs;   // on the host: [num_pairs, 2]: source block, target block; later pairs see what earlier ones wrote
    int64_t num_planes, num_pairs, block_bytes;  // block_bytes a multiple of 16
};

void copy_blocks(const CopyBlocksArgs& args, Stream stream);

// The same where one side is pinned host memory, which the GPU reads and writes at its own address: few threads, that run
// beside the step's kernels and keep the bus busy.
void swap_blocks(const CopyBlocksArgs& args, Stream stream);

// How many of pairs[first:] can be copied in any order: none reads or writes what another of them writes. At most `most`.
int64_t count_independent(const int64_t* pairs, int64_t num_pairs, int64_t most);

}  // namespace pagecli::cuda
