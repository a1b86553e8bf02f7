// Arguments of the sort of a step's rows by expert, the plan of grouped_linear, which is made on the GPU.
#pragma once

#include "pagecli/cuda/device.h"

namespace pagecli::cuda {

// Rows of one expert that a thread block multiplies: order[first .. first + count).
struct ExpertTile {
    int32_t expert;  // negative: no tile
    int32_t first, count;
};

struct SortExpertsArgs {
    int32_t* order;      // [rows]: rows by expert, of one expert in their own order; rows of no expert have no place
    ExpertTile* tiles;   // [num_tiles], as many as any step of so many rows may need
    const int32_t* ids;  // [rows]: of each (token, choice) the expert; negative: none
    int64_t rows, experts, num_tiles, tile_rows;
};

void sort_experts(const SortExpertsArgs& args, Stream stream);

}  // namespace pagecli::cuda
