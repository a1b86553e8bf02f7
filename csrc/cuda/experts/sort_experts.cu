// Rows by expert: a block of threads for each expert, which counts all rows for the place where its own begin and then puts them
// there, in their order.
#include "device/launch.h"
#include "device/reduce.h"
#include "pagecli/cuda/experts/router.h"
#include "pagecli/cuda/experts/sort_experts.h"

namespace pagecli::cuda {
namespace {

constexpr int kThreads = 512, kWarps = kThreads / kWarp;

struct Before {  // rows and tiles of the experts before one, and tiles of all
    int rows, tiles, all_tiles;
};

__device__ inline Before count_before(const int* counts, int expert, int experts, int tile_rows) {
    Before sum = {0, 0, 0};
    for (int other = static_cast<int>(threadIdx.x) % kWarp; other < experts; other += kWarp) {
        const int tiles = (counts[other] + tile_rows - 1) / tile_rows;
        sum.rows += other < expert ? counts[other] : 0;
        sum.tiles += other < expert ? tiles : 0;
        sum.all_tiles += tiles;
    }
    return {warp_sum(sum.rows), warp_sum(sum.tiles), warp_sum(sum.all_tiles)};
}

__global__ void __launch_bounds__(kThreads) sort_experts_kernel(SortExpertsArgs a) {
    PAGECLI_SHARED_ARRAY(int, counts, kMaxExperts);
    PAGECLI_SHARED_ARRAY(int, of_warp, kWarps);
    const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, warp = thread / kWarp;
    const int expert = static_cast<int>(blockIdx.x), experts = static_cast<int>(a.experts);
    const int rows = static_cast<int>(a.rows), tile_rows = static_cast<int>(a.tile_rows);
    for (int i = thread; i < experts; i += kThreads) counts[i] = 0;
    __syncthreads();
    for (int row = thread; row < rows; row += kThreads)
        if (a.ids[row] >= 0) atomicAdd(counts + a.ids[row], 1);
    __syncthreads();
    const Before before = count_before(counts, expert, experts, tile_rows);
    const int own = counts[expert];
    if (expert == 0)
        for (int i = before.all_tiles + thread; i < a.num_tiles; i += kThreads) a.tiles[i] = {-1, 0, 0};
    for (int i = thread; i * tile_rows < own; i += kThreads) {
        const int left = own - i * tile_rows;
        a.tiles[before.tiles + i] = {expert, before.rows + i * tile_rows, left < tile_rows ? left : tile_rows};
    }
    int place = before.rows;
    for (int first = 0; place < before.rows + own; first += kThreads) {
        const int row = first + thread;
        const bool is_own = row < rows && a.ids[row] == expert;
        const unsigned votes = __ballot_sync(kAllLanes, is_own);
        if (lane == 0) of_warp[warp] = __popc(votes);
        __syncthreads();
        int at = place + __popc(votes & ((1u << lane) - 1));
        for (int i = 0; i < kWarps; ++i) {
            at += i < warp ? of_warp[i] : 0;
            place += of_warp[i];
        }
        if (is_own) a.order[at] = row;
        __syncthreads();
    }
}

}  // namespace

void sort_experts(const SortExpertsArgs& a, Stream stream) {
    if (a.rows == 0) return;
    launch<sort_experts_kernel>({a.experts, 1, 1, kThreads, stream}, a);
}

}  // namespace pagecli::cuda
