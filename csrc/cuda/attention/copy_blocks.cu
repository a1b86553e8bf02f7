// Copies whole blocks of the paged cache in all layers at once: copy-on-write, and swapping to and from pinned host memory.
// The list of pairs travels as the kernel's argument, so nothing has to be copied to the device first.
#include "device/launch.h"
#include "pagecli/cuda/attention/copy_blocks.h"

namespace pagecli::cuda {
namespace {

constexpr int kThreads = 256, kMaxPairs = 224;  // a kernel's arguments may take 4 KiB
constexpr int kSwapBlocks = 32;                 // of threads: 32 x 256 x 4 x 16 bytes in flight fill a PCIe 5 link

struct PairList {
    int32_t count;
    int32_t source[kMaxPairs], target[kMaxPairs];
};

// Units of 16 bytes, unit u of pair u / units_each; blockIdx.y is the plane. Four loads are in flight before the first store.
__global__ void __launch_bounds__(kThreads) copy_blocks_kernel(const int64_t* planes, PairList pairs, int units_each) {
    constexpr int kInFlight = 4;
    auto* target = reinterpret_cast<uint4*>(planes[2 * blockIdx.y]);
    const auto* source = reinterpret_cast<const uint4*>(planes[2 * blockIdx.y + 1]);
    const int num_units = pairs.count * units_each, step = static_cast<int>(gridDim.x) * kThreads;
    for (int first = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x); first < num_units;
         first += kInFlight * step) {
        uint4 held[kInFlight];
#pragma unroll
        for (int i = 0; i < kInFlight; ++i) {
            const int unit = first + i * step;
            if (unit < num_units)
                held[i] = source[static_cast<int64_t>(pairs.source[unit / units_each]) * units_each + unit % units_each];
        }
#pragma unroll
        for (int i = 0; i < kInFlight; ++i) {
            const int unit = first + i * step;
            if (unit < num_units)
                target[static_cast<int64_t>(pairs.target[unit / units_each]) * units_each + unit % units_each] = held[i];
        }
    }
}

void copy_runs(const CopyBlocksArgs& a, int64_t most_blocks, Stream stream) {
    const int64_t units_each = a.block_bytes / 16;
    for (int64_t first = 0; first < a.num_pairs && a.num_planes > 0;) {
        PairList list;
        list.count = static_cast<int32_t>(count_independent(a.pairs + 2 * first, a.num_pairs - first, kMaxPairs));
        for (int32_t i = 0; i < list.count; ++i) {
            list.source[i] = static_cast<int32_t>(a.pairs[2 * (first + i)]);
            list.target[i] = static_cast<int32_t>(a.pairs[2 * (first + i) + 1]);
        }
        first += list.count;
        int64_t blocks = divide_up(list.count * units_each, 4 * kThreads);
        if (most_blocks > 0 && blocks > most_blocks) blocks = most_blocks;
        launch<copy_blocks_kernel>({blocks, a.num_planes, 1, kThreads, stream}, a.planes, list,
                                   static_cast<int>(units_each));
    }
}

}  // namespace

void copy_blocks(const CopyBlocksArgs& a, Stream stream) { copy_runs(a, 0, stream); }

void swap_blocks(const CopyBlocksArgs& a, Stream stream) {
    const int64_t each_plane = a.num_planes > 0 ? divide_up(kSwapBlocks, a.num_planes) : 1;
    copy_runs(a, each_plane, stream);
}

int64_t count_independent(const int64_t* pairs, int64_t num_pairs, int64_t most) {
    for (int64_t i = 0; i < num_pairs && i < most; ++i) {
        const int64_t source = pairs[2 * i], target = pairs[2 * i + 1];
        for (int64_t j = 0; j < i; ++j)
            if (pairs[2 * j + 1] == source || pairs[2 * j] == target || pairs[2 * j + 1] == target) return i;
    }
    return num_pairs < most ? num_pairs : most;
}

}  // namespace pagecli::cuda
