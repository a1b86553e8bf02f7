// Linear layers by expert: rows sorted by expert (sort_experts.cu), a thread block for some rows of one expert and some rows of its
// weight. Tiles of 16 rows where experts have few, in which the weight is read at the rate of memory, and of 64 where they have
// many. In either, as on float32, a sum goes through the columns in one order, by the same instructions.
#include "device/launch.h"
#include "device/mma.h"
#include "pagecli/cuda/experts/grouped_linear.h"

namespace pagecli::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / kWarp;

template <int kTileRows>
struct GroupedShape {
    static constexpr int kRows = kTileRows, kCols = kTileRows == kFewTileRows ? 64 : 128;  // of the result
    static constexpr int kDepth = 64, kChunks = kDepth / kVec;  // of the sums, in a stage
    static constexpr int kStages = kTileRows == kFewTileRows ? 4 : 3;
    static constexpr int kStageElements = (kRows + kCols) * kDepth, kBytes = kStages * kStageElements * 2;
    static constexpr int kRowWarps = kTileRows == kFewTileRows ? 1 : 2, kColWarps = kWarps / kRowWarps;
    static constexpr int kWarpRows = kRows / kRowWarps, kWarpCols = kCols / kColWarps;
};

// Where a tile's rows are: of out the row, of x its first element.
__device__ inline void find_rows(int* places, int64_t* offsets, const GroupedLinearArgs& a, const ExpertTile& tile) {
    const int r = static_cast<int>(threadIdx.x);
    if (r < tile.count) {
        const int64_t row = a.order[tile.first + r];
        places[r] = static_cast<int>(row);
        offsets[r] = row / a.chosen * a.x_stride[0] + row % a.chosen * a.x_stride[1];
    }
    __syncthreads();
}

// Copies columns [first, first + kDepth) of x and of the weight to a stage, zeros beyond what there is.
template <class T, int kTileRows>
__device__ inline void copy_stage(T* stage, const GroupedLinearArgs& a, const int64_t* offsets, int count, const T* weight,
                                  int weight_rows, int64_t first) {
    using S = GroupedShape<kTileRows>;
    const Rows<T, S::kChunks> x = {stage}, rows = {stage + S::kRows * S::kDepth};
#pragma unroll
    for (int i = static_cast<int>(threadIdx.x); i < S::kRows * S::kChunks; i += kThreads) {
        const int row = i / S::kChunks, chunk = i % S::kChunks;
        const int64_t col = first + chunk * kVec;
        const bool wanted = row < count && col < a.cols;
        ptx::copy_async_16(x.at(row, chunk), static_cast<const T*>(a.x) + (wanted ? offsets[row] + col : 0), wanted);
    }
#pragma unroll
    for (int i = static_cast<int>(threadIdx.x); i < S::kCols * S::kChunks; i += kThreads) {
        const int row = i / S::kChunks, chunk = i % S::kChunks;
        const int64_t col = first + chunk * kVec;
        const bool wanted = row < weight_rows && col < a.cols;
        ptx::copy_async_16(rows.at(row, chunk), weight + (wanted ? row * a.cols + col : 0), wanted);
    }
}

template <class T, int kTileRows>
__global__ void __launch_bounds__(kThreads) grouped_linear_kernel(GroupedLinearArgs a) {
    using S = GroupedShape<kTileRows>;
    PAGECLI_SHARED_ARRAY(int, places, kTileRows);
    PAGECLI_SHARED_ARRAY(int64_t, offsets, kTileRows);
    const ExpertTile tile = a.tiles[blockIdx.y];
    if (tile.expert < 0) return;
    find_rows(places, offsets, a, tile);
    const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
    const int64_t first_col = static_cast<int64_t>(blockIdx.x) * S::kCols;
    const int cols = a.rows - first_col < S::kCols ? static_cast<int>(a.rows - first_col) : S::kCols;
    const T* weight = static_cast<const T*>(a.weight) + (tile.expert * a.rows + first_col) * a.cols;
    T* stages = static_cast<T*>(ptx::dynamic_shared());
    const int num_steps = static_cast<int>((a.cols + S::kDepth - 1) / S::kDepth);
    const auto copy = [&](int step) {
        if (step < num_steps)
            copy_stage<T, kTileRows>(stages + step % S::kStages * S::kStageElements, a, offsets, tile.count, weight, cols,
                                     static_cast<int64_t>(step) * S::kDepth);
        ptx::commit_copies();
    };
#pragma unroll
    for (int i = 0; i < S::kStages - 1; ++i) copy(i);
    const int warp_row = warp / S::kColWarps * S::kWarpRows, warp_col = warp % S::kColWarps * S::kWarpCols;
    float sums[S::kWarpRows / kMmaRows][S::kWarpCols / 8][4] = {};
    for (int step = 0; step < num_steps; ++step) {
        ptx::wait_for_copies<S::kStages - 2>();
        __syncthreads();  // everybody's copies of this stage have arrived; everybody is done with the one before it
        copy(step + S::kStages - 1);
        T* stage = stages + step % S::kStages * S::kStageElements;
        const Rows<T, S::kChunks> x = {stage}, rows = {stage + S::kRows * S::kDepth};
#pragma unroll
        for (int two = 0; two < S::kChunks / 2; ++two) {
            uint32_t x_part[S::kWarpRows / kMmaRows][4];
#pragma unroll
            for (int i = 0; i < S::kWarpRows / kMmaRows; ++i) load_a(x_part[i], x, warp_row + i * kMmaRows, two);
#pragma unroll
            for (int pair = 0; pair < S::kWarpCols / 16; ++pair) {
                uint32_t b[4];
                load_b(b, rows, warp_col + 16 * pair, two);
#pragma unroll
                for (int i = 0; i < S::kWarpRows / kMmaRows; ++i) {
                    multiply_add(sums[i][2 * pair], x_part[i], {b[0], b[1]}, T());
                    multiply_add(sums[i][2 * pair + 1], x_part[i], {b[2], b[3]}, T());
                }
            }
        }
    }
    ptx::wait_for_copies<0>();
    const float* bias = a.bias != nullptr ? a.bias + tile.expert * a.rows + first_col : nullptr;
#pragma unroll
    for (int i = 0; i < S::kWarpRows / kMmaRows; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = warp_row + i * kMmaRows + lane / 4 + half * 8;
            if (row >= tile.count) continue;
            T* out = static_cast<T*>(a.out) + places[row] * a.rows + first_col;
#pragma unroll
            for (int t = 0; t < S::kWarpCols / 8; ++t) {
                const int col = warp_col + 8 * t + lane % 4 * 2;
                if (col >= cols) continue;
                float low = sums[i][t][2 * half], high = sums[i][t][2 * half + 1];
                if (bias != nullptr) {
                    low += bias[col];
                    high += bias[col + 1];
                }
                *reinterpret_cast<uint32_t*>(out + col) = packed<T>(low, high);
            }
        }
}

constexpr int kFloatDepth = 32;

// float32, for checking: a thread for each row of the weight, x in shared memory.
__global__ void __launch_bounds__(kThreads, 4) grouped_linear_float_kernel(GroupedLinearArgs a) {
    constexpr int kRows = static_cast<int>(kFewTileRows);
    PAGECLI_SHARED_ARRAY(int, places, kRows);
    PAGECLI_SHARED_ARRAY(int64_t, offsets, kRows);
    PAGECLI_SHARED_ARRAY(float, part, kRows * kFloatDepth);
    const ExpertTile tile = a.tiles[blockIdx.y];
    if (tile.expert < 0) return;
    find_rows(places, offsets, a, tile);
    const int64_t col = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    const bool is_there = col < a.rows;
    const float* weight = static_cast<const float*>(a.weight) + (tile.expert * a.rows + (is_there ? col : 0)) * a.cols;
    const int cols = static_cast<int>(a.cols);
    float sums[kRows] = {};
    for (int first = 0; first < cols; first += kFloatDepth) {
        for (int i = static_cast<int>(threadIdx.x); i < kRows * kFloatDepth; i += kThreads) {
            const int row = i / kFloatDepth, at = first + i % kFloatDepth;
            part[i] = row < tile.count && at < cols ? static_cast<const float*>(a.x)[offsets[row] + at] : 0.0f;
        }
        __syncthreads();
        for (int i = 0; i < kFloatDepth && first + i < cols; i += kVec) {
            float values[kVec];
            load_floats(values, weight + first + i);
#pragma unroll
            for (int row = 0; row < kRows; ++row)
#pragma unroll
                for (int j = 0; j < kVec; ++j) sums[row] = fmaf(part[row * kFloatDepth + i + j], values[j], sums[row]);
        }
        __syncthreads();
    }
    if (!is_there) return;
    const float bias = a.bias != nullptr ? a.bias[tile.expert * a.rows + col] : 0.0f;
#pragma unroll
    for (int row = 0; row < kRows; ++row)
        if (row < tile.count) static_cast<float*>(a.out)[places[row] * a.rows + col] = sums[row] + bias;
}

template <class T, int kTileRows>
void launch_tiles(const GroupedLinearArgs& a, Stream stream) {
    using S = GroupedShape<kTileRows>;
    const LaunchShape shape = {divide_up(a.rows, S::kCols), a.num_tiles, 1, kThreads, stream};
    launch<grouped_linear_kernel<T, kTileRows>, S::kBytes>(shape, a);
}

}  // namespace

void grouped_linear(const GroupedLinearArgs& a, Stream stream) {
    if (a.num_tiles == 0) return;
    if (a.type == ElementType::float32) {
        launch<grouped_linear_float_kernel>({divide_up(a.rows, kThreads), a.num_tiles, 1, kThreads, stream}, a);
        return;
    }
    with_element_type(a.type, [&](auto element) {
        using T = decltype(element);
        if constexpr (sizeof(T) == 2) {
            if (a.tile_rows == kFewTileRows)
                launch_tiles<T, kFewTileRows>(a, stream);
            else
                launch_tiles<T, kManyTileRows>(a, stream);
        }
    });
}

}  // namespace pagecli::cuda
