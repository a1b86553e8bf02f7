// Linear layers by expert: rows sorted by expert (sort_experts.cu), a thread block for some rows of one expert and some rows of its
// weight. Tiles of 16 rows where experts have few, in which the weight is read at the rate of memory, and of 64 where they have
// many. In either, as on float32, a sum goes through the columns in one order, by the same instructions. C, of the weight: T, or
// e4m3, widened between shared memory and the multiplication.
#include <type_traits>

#include "device/float8.h"
#include "device/launch.h"
#include "device/mma.h"
#include "pagecli/cuda/experts/grouped_linear.h"

namespace pagecli::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / kWarp;

template <class C, int kTileRows>
struct GroupedShape {
    static constexpr int kRows = kTileRows, kCols = kTileRows == kFewTileRows ? 64 : 128;  // of the result
    static constexpr int kDepth = 64, kChunks = kDepth / kVec;  // of the sums, in a stage
    static constexpr int kStages = kTileRows == kFewTileRows ? 4 : 3;
    static constexpr int kWeightVec = 16 / static_cast<int>(sizeof(C)), kWeightChunks = kDepth / kWeightVec;
    static constexpr int kXBytes = kRows * kDepth * 2, kStageBytes = kXBytes + kCols * kDepth * static_cast<int>(sizeof(C));
    static constexpr int kBytes = kStages * kStageBytes;
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

// A stage's columns of x and of the weight, in shared memory.
template <class T, class C, int kTileRows>
struct Stage {
    using S = GroupedShape<C, kTileRows>;
    Rows<T, S::kChunks> x;
    Rows<C, S::kWeightChunks> rows;
    __device__ Stage(char* memory) : x{reinterpret_cast<T*>(memory)}, rows{reinterpret_cast<C*>(memory + S::kXBytes)} {}
};

// Copies columns [first, first + kDepth) of x and of the weight to a stage, zeros beyond what there is.
template <class T, class C, int kTileRows>
__device__ inline void copy_stage(const Stage<T, C, kTileRows>& stage, const GroupedLinearArgs& a, const int64_t* offsets,
                                  int count, const C* weight, int weight_rows, int64_t first) {
    using S = GroupedShape<C, kTileRows>;
#pragma unroll
    for (int i = static_cast<int>(threadIdx.x); i < S::kRows * S::kChunks; i += kThreads) {
        const int row = i / S::kChunks, chunk = i % S::kChunks;
        const int64_t col = first + chunk * kVec;
        const bool wanted = row < count && col < a.cols;
        ptx::copy_async_16(stage.x.at(row, chunk), static_cast<const T*>(a.x) + (wanted ? offsets[row] + col : 0), wanted);
    }
#pragma unroll
    for (int i = static_cast<int>(threadIdx.x); i < S::kCols * S::kWeightChunks; i += kThreads) {
        const int row = i / S::kWeightChunks, chunk = i % S::kWeightChunks;
        const int64_t col = first + chunk * S::kWeightVec;
        const bool wanted = row < weight_rows && col < a.cols;
        ptx::copy_async_16(stage.rows.at(row, chunk), weight + (wanted ? row * a.cols + col : 0), wanted);
    }
}

// sums[..] += x @ rows^T of a stage, for a warp's rows and columns from (row, col) on: 16 or 32 columns of the sum at a time, each
// sum's own ascending.
template <class T, class C, int kTileRows, int kRowParts, int kColParts>
__device__ inline void multiply_stage(float (&sums)[kRowParts][kColParts][4], const Stage<T, C, kTileRows>& stage, int row, int col) {
    using S = GroupedShape<C, kTileRows>;
    constexpr int kSteps = sizeof(C) == 1 ? 2 : 1;  // of 16 columns, in two chunks of a row of the weight
#pragma unroll
    for (int two = 0; two < S::kWeightChunks / 2; ++two) {
        uint32_t x[kSteps][kRowParts][4];
#pragma unroll
        for (int step = 0; step < kSteps; ++step)
#pragma unroll
            for (int i = 0; i < kRowParts; ++i) load_a(x[step][i], stage.x, row + i * kMmaRows, kSteps * two + step);
#pragma unroll
        for (int pair = 0; pair < kColParts / 2; ++pair) {
            uint32_t b[4];
            load_b(b, stage.rows, col + 16 * pair, two);
#pragma unroll
            for (int i = 0; i < kRowParts; ++i)
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    auto& sum = sums[i][2 * pair + half];
                    if constexpr (sizeof(C) == 1) {
#pragma unroll
                        for (int step = 0; step < kSteps; ++step) {
                            const uint32_t four = b[2 * half + step];
                            multiply_add(sum, x[step][i], {widened<T>(four & 0xffffu), widened<T>(four >> 16)}, T());
                        }
                    } else {
                        multiply_add(sum, x[0][i], {b[2 * half], b[2 * half + 1]}, T());
                    }
                }
        }
    }
}

template <class T, class C, int kTileRows>
__global__ void __launch_bounds__(kThreads) grouped_linear_kernel(GroupedLinearArgs a) {
    using S = GroupedShape<C, kTileRows>;
    PAGECLI_SHARED_ARRAY(int, places, kTileRows);
    PAGECLI_SHARED_ARRAY(int64_t, offsets, kTileRows);
    const ExpertTile tile = a.tiles[blockIdx.y];
    if (tile.expert < 0) return;
    find_rows(places, offsets, a, tile);
    const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
    const int64_t first_col = static_cast<int64_t>(blockIdx.x) * S::kCols;
    const int cols = a.rows - first_col < S::kCols ? static_cast<int>(a.rows - first_col) : S::kCols;
    const C* weight = static_cast<const C*>(a.weight) + (tile.expert * a.rows + first_col) * a.cols;
    char* stages = static_cast<char*>(ptx::dynamic_shared());
    const auto stage_of = [&](int step) { return Stage<T, C, kTileRows>(stages + step % S::kStages * S::kStageBytes); };
    const int num_steps = static_cast<int>((a.cols + S::kDepth - 1) / S::kDepth);
    const auto copy = [&](int step) {
        if (step < num_steps)
            copy_stage(stage_of(step), a, offsets, tile.count, weight, cols, static_cast<int64_t>(step) * S::kDepth);
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
        multiply_stage(sums, stage_of(step), warp_row, warp_col);
    }
    ptx::wait_for_copies<0>();
    const int64_t first_row = tile.expert * a.rows + first_col;
    const float* bias = a.bias != nullptr ? a.bias + first_row : nullptr;
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
                if constexpr (!std::is_same_v<T, C>) {
                    low *= a.scales[first_row + col];
                    high *= a.scales[first_row + col + 1];
                }
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

template <class T, class C>
void launch_tiles(const GroupedLinearArgs& a, Stream stream) {
    const auto start = [&](auto tile_rows) {
        constexpr int kTileRows = decltype(tile_rows)::value;
        using S = GroupedShape<C, kTileRows>;
        launch<grouped_linear_kernel<T, C, kTileRows>, S::kBytes>({divide_up(a.rows, S::kCols), a.num_tiles, 1, kThreads, stream}, a);
    };
    if (a.tile_rows == kFewTileRows)
        start(std::integral_constant<int, kFewTileRows>());
    else
        start(std::integral_constant<int, kManyTileRows>());
}

}  // namespace

void grouped_linear(const GroupedLinearArgs& a, Stream stream) {
    if (a.num_tiles == 0) return;
    if (a.scales != nullptr) return launch_tiles<BFloat16, E4M3>(a, stream);
    switch (a.type) {
        case ElementType::float32:
            return launch<grouped_linear_float_kernel>({divide_up(a.rows, kThreads), a.num_tiles, 1, kThreads, stream}, a);
        case ElementType::bfloat16:
            return launch_tiles<BFloat16, BFloat16>(a, stream);
        case ElementType::float16:
            return launch_tiles<Float16, Float16>(a, stream);
    }
}

}  // namespace pagecli::cuda
