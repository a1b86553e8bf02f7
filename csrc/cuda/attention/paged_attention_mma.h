// Attention on the tensor cores, for prefill (64 rows: 16 for each of 4 warps) and for decode with groups of 4 and more query
// heads (16 rows: the warps share out the keys of a tile). Rows against tiles of 64 keys, of 32 where a head is too large for
// that, copied to shared memory ahead; softmax online, in registers (Dao, FlashAttention-2, 2023). T, of Q and the products' operands: 16 bits, sums in float32. C,
// of the cache: T, or e4m3, widened between shared memory and the multiplication.
//
// A row of Q, K or V in shared memory is kHeadDim elements, as device/mma.h has them.
//
// ldmatrix moves pairs of 8-bit elements as if they were one of 16 bits. A lane thus gets four neighbouring dimensions of a
// key where the multiplication wants two and, eight further, two: Q's dimensions are put in that order (store_q). Of V it gets
// two neighbouring dimensions of two keys, which become columns of two tiles (MmaState::pair).
#pragma once

#include "attention_state.h"
#include "device/launch.h"
#include "device/mma.h"

namespace pagecli::cuda {

// Sizes of the kernels for one head size. kSplitKeys: each warp has all rows and its share of a tile's keys.
template <class C, int kHeadDim, bool kSplitKeys>
struct MmaShape {
    static constexpr bool kNarrow = sizeof(C) == 1;
    static constexpr int kTileKeys = kHeadDim > 128 && !(kSplitKeys && kNarrow) ? 32 : 64;
    static constexpr int kWarps = kSplitKeys ? kTileKeys / 16 : 4, kThreads = kWarps * kWarp;
    static constexpr int kWarpKeys = kSplitKeys ? 16 : kTileKeys;  // that a warp multiplies
    static constexpr int kRows = kSplitKeys ? kMmaRows : kMmaRows * kWarps;
    static constexpr int kStages = kSplitKeys && kNarrow && kHeadDim <= 128 ? 4 : 2;
    static constexpr int kLeastBlocks = kSplitKeys && !kNarrow && kHeadDim <= 128 ? 3 : 1;  // that registers leave room for
    static constexpr int kChunks = kHeadDim / kVec;  // of a row of Q
    static constexpr int kChunkDims = 16 / static_cast<int>(sizeof(C)), kKeyChunks = kHeadDim / kChunkDims;
    static constexpr int kTileBytes = kTileKeys * kHeadDim * static_cast<int>(sizeof(C));
    static constexpr int kBytes = kRows * kHeadDim * 2 + 2 * kStages * kTileBytes;
    static constexpr bool kKeepsQ = kHeadDim <= 128;  // in registers
};

// Dimensions [8 * chunk, 8 * chunk + 8) of a row of Q, in the order in which keys of type C are multiplied: of sixteen, pairs
// 0, 2, 4 and 6, then pairs 1, 3, 5 and 7, where C has 8 bits.
template <class C, class T, int kChunks>
__device__ inline void store_q(const Rows<T, kChunks>& q, int row, int chunk, const Vec<T>& values) {
    if constexpr (sizeof(C) == 1) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            struct alignas(8) Four {
                T at[4];
            };
            *reinterpret_cast<Four*>(q.at(row, chunk / 2 * 2 + i) + chunk % 2 * 4) = {
                {values.at[2 * i], values.at[2 * i + 1], values.at[2 * i + 4], values.at[2 * i + 5]}};
        }
    } else {
        store_vec(q.at(row, chunk), values);
    }
}

// Two neighbouring dimensions of a row of the result.
struct DimPair {
    int dim;
    float low, high;
};

// What a warp keeps of its 16 rows. Lane l has rows l / 4 and l / 4 + 8, of each eight columns 2 * (l % 4) and the next. Tiles
// of eight columns are eight dimensions or, of an e4m3 cache, the even ones of sixteen, then the odd ones.
template <class C, int kHeadDim>
struct MmaState {
    float max[2], sum[2], values[kHeadDim / 8][4];

    // Pair `index` of the kHeadDim / 8 that lane `lane` has of its first (half 0) or second row.
    __device__ DimPair pair(int index, int half, int lane) const {
        if constexpr (sizeof(C) == 1) {
            const int even = index / 2 * 2, i = 2 * half + index % 2;
            return {8 * even + lane % 4 * 4 + index % 2 * 2, values[even][i], values[even + 1][i]};
        } else {
            return {8 * index + lane % 4 * 2, values[index][2 * half], values[index][2 * half + 1]};
        }
    }

    __device__ MmaState() {
        max[0] = max[1] = -INFINITY;
        sum[0] = sum[1] = 0.0f;
#pragma unroll
        for (auto& tile : values)
#pragma unroll
            for (float& x : tile) x = 0.0f;
    }
};

// scores[tile][..] = q @ keys^T for the warp's keys from `first` on; eight keys a tile.
template <class T, class C, int kHeadDim, bool kSplitKeys>
__device__ inline void multiply_keys(float (&scores)[MmaShape<C, kHeadDim, kSplitKeys>::kWarpKeys / 8][4],
                                     const Rows<T, kHeadDim / kVec>& q, int q_row, const uint32_t (*held_q)[4],
                                     const Rows<C, MmaShape<C, kHeadDim, kSplitKeys>::kKeyChunks>& keys, int first) {
    using S = MmaShape<C, kHeadDim, kSplitKeys>;
    constexpr int kSteps = S::kNarrow ? 2 : 1;  // of 16 dimensions in two chunks of a key
#pragma unroll
    for (int two = 0; two < S::kKeyChunks / 2; ++two) {
        uint32_t a[kSteps][4];
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
            if constexpr (S::kKeepsQ) {
#pragma unroll
                for (int i = 0; i < 4; ++i) a[step][i] = held_q[kSteps * two + step][i];
            } else {
                load_a(a[step], q, q_row, kSteps * two + step);
            }
        }
#pragma unroll
        for (int pair = 0; pair < S::kWarpKeys / 16; ++pair) {
            uint32_t b[4];
            load_b(b, keys, first + 16 * pair, two);
            if constexpr (S::kNarrow) {
#pragma unroll
                for (int i = 0; i < 4; ++i)
                    multiply_add(scores[2 * pair + i / 2], a[i % 2], {widened<T>(b[i] & 0xffffu), widened<T>(b[i] >> 16)}, T());
            } else {
                multiply_add(scores[2 * pair], a[0], {b[0], b[1]}, T());
                multiply_add(scores[2 * pair + 1], a[0], {b[2], b[3]}, T());
            }
        }
    }
}

// Online softmax of a tile's scores, which become weights. `scale` turns scores into powers of two.
template <int kTiles, class C, int kHeadDim>
__device__ inline void soften(float (&scores)[kTiles][4], MmaState<C, kHeadDim>& state, float scale) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        float max = -INFINITY;
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) max = fmaxf(max, fmaxf(scores[tile][2 * half], scores[tile][2 * half + 1]));
        max = fmaxf(max, __shfl_xor_sync(kAllLanes, max, 1));
        max = fmaxf(max, __shfl_xor_sync(kAllLanes, max, 2));
        max = fmaxf(state.max[half], max * scale);
        const float kept = weight_below(state.max[half], max);
        state.max[half] = max;
        float sum = 0.0f;
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
            for (int i = 2 * half; i < 2 * half + 2; ++i) {
                scores[tile][i] = weight_below(scores[tile][i] * scale, max);
                sum += scores[tile][i];
            }
        state.sum[half] = state.sum[half] * kept + sum;  // of this lane's columns; the quad's are added at the end
#pragma unroll
        for (auto& tile : state.values) {
            tile[2 * half] *= kept;
            tile[2 * half + 1] *= kept;
        }
    }
}

// Of a register of four e4m3, bytes 0 and 2 (`odd` 0) or 1 and 3 (1) as a pair of T.
template <class T>
__device__ inline uint32_t widened_column(uint32_t four, int odd) {
    const uint32_t shifted = odd == 0 ? four : four >> 8;
    return widened<T>((shifted & 0xffu) | (shifted >> 8 & 0xff00u));
}

// state.values += weights @ values of the warp's keys from `first` on.
template <class T, class C, int kHeadDim, int kTiles>
__device__ inline void multiply_values(MmaState<C, kHeadDim>& state, const float (&weights)[kTiles][4],
                                       const Rows<C, kHeadDim * static_cast<int>(sizeof(C)) / 16>& values, int first) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
    for (int pair = 0; pair < kTiles / 2; ++pair) {
        const auto &low = weights[2 * pair], &high = weights[2 * pair + 1];
        const uint32_t a[4] = {packed<T>(low[0], low[1]), packed<T>(low[2], low[3]), packed<T>(high[0], high[1]),
                               packed<T>(high[2], high[3])};
#pragma unroll
        for (int chunk = 0; chunk < kHeadDim * static_cast<int>(sizeof(C)) / 16; chunk += 2) {
            uint32_t b[4];
            ptx::load_matrices_transposed(b, values.at(first + 16 * pair + lane % 16, chunk + lane / 16));
            if constexpr (sizeof(C) == 1) {
#pragma unroll
                for (int i = 0; i < 4; ++i)
                    multiply_add(state.values[2 * chunk + i], a,
                                 {widened_column<T>(b[i / 2 * 2], i % 2), widened_column<T>(b[i / 2 * 2 + 1], i % 2)}, T());
            } else {
                multiply_add(state.values[chunk], a, {b[0], b[1]}, T());
                multiply_add(state.values[chunk + 1], a, {b[2], b[3]}, T());
            }
        }
    }
}

// Copies the tile of keys from `first` on (zeros from `end` on and beyond head_dim) to stage memory: K, then V.
template <class C, int kHeadDim, bool kSplitKeys>
__device__ inline void copy_tile(C* stage, const PagedAttentionArgs& a, const KeyPlaces& places, int first, int end) {
    using S = MmaShape<C, kHeadDim, kSplitKeys>;
    const Rows<C, S::kKeyChunks> keys = {stage}, values = {stage + S::kTileKeys * kHeadDim};
#pragma unroll(kHeadDim > 128 ? 2 : 8)  // each copy in flight takes registers for its addresses
    for (int i = static_cast<int>(threadIdx.x); i < S::kTileKeys * S::kKeyChunks; i += S::kThreads) {
        const int row = i / S::kKeyChunks, chunk = i % S::kKeyChunks, key = first + row;
        const bool wanted = key < end && chunk * S::kChunkDims < a.head_dim;
        const int64_t offset = wanted ? places.offset(places.block_of(key), key) + chunk * S::kChunkDims : 0;
        ptx::copy_async_16(keys.at(row, chunk), static_cast<const C*>(a.k_cache) + offset, wanted);
        ptx::copy_async_16(values.at(row, chunk), static_cast<const C*>(a.v_cache) + offset, wanted);
    }
}

// Attends from the kRows rows of Q at `memory` to keys [begin, end). hide(half, key) says which keys this lane's row of a
// half of the 16 must not see; tiles that end at or before free_until and begin at or after free_from have none to hide. Ends
// with a barrier, after which `memory` is free.
template <class T, class C, int kHeadDim, bool kSplitKeys, class Hide>
__device__ inline void attend_tiles(MmaState<C, kHeadDim>& state, T* memory, const PagedAttentionArgs& a,
                                    const KeyPlaces& places, int begin, int end, int free_from, int free_until,
                                    const Hide& hide) {
    using S = MmaShape<C, kHeadDim, kSplitKeys>;
    const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
    const Rows<T, S::kChunks> q = {memory};
    C* stages = reinterpret_cast<C*>(memory + S::kRows * kHeadDim);
    const int q_row = kSplitKeys ? 0 : warp * kMmaRows, first_key = kSplitKeys ? warp * S::kWarpKeys : 0;
    const int num_tiles = (end - begin + S::kTileKeys - 1) / S::kTileKeys;
    const auto copy = [&](int tile) {
        if (tile < num_tiles)
            copy_tile<C, kHeadDim, kSplitKeys>(stages + tile % S::kStages * 2 * S::kTileKeys * kHeadDim, a, places,
                                               begin + tile * S::kTileKeys, end);
        ptx::commit_copies();
    };
#pragma unroll
    for (int i = 0; i < S::kStages - 1; ++i) copy(i);
    uint32_t held_q[S::kKeepsQ ? kHeadDim / 16 : 1][4];
    for (int tile = 0; tile < num_tiles; ++tile) {
        ptx::wait_for_copies<S::kStages - 2>();
        __syncthreads();  // everybody's copies of this tile have arrived; everybody is done with the tile before it
        if (S::kKeepsQ && tile == 0) {
#pragma unroll
            for (int step = 0; step < kHeadDim / 16; ++step) load_a(held_q[S::kKeepsQ ? step : 0], q, q_row, step);
        }
        copy(tile + S::kStages - 1);
        C* stage = stages + tile % S::kStages * 2 * S::kTileKeys * kHeadDim;
        const int tile_begin = begin + tile * S::kTileKeys;
        float scores[S::kWarpKeys / 8][4] = {};
        multiply_keys<T, C, kHeadDim, kSplitKeys>(scores, q, q_row, held_q, {stage}, first_key);
        if (tile_begin < free_from || tile_begin + S::kTileKeys > free_until) {
#pragma unroll
            for (int t = 0; t < S::kWarpKeys / 8; ++t)
#pragma unroll
                for (int i = 0; i < 4; ++i)
                    if (hide(i / 2, tile_begin + first_key + 8 * t + lane % 4 * 2 + i % 2)) scores[t][i] = -INFINITY;
        }
        soften(scores, state, a.scale * kLog2E);
        multiply_values<T, C, kHeadDim>(state, scores, {stage + S::kTileKeys * kHeadDim}, first_key);
    }
    ptx::wait_for_copies<0>();
#pragma unroll
    for (float& sum : state.sum) {
        sum += __shfl_xor_sync(kAllLanes, sum, 1);
        sum += __shfl_xor_sync(kAllLanes, sum, 2);
    }
    __syncthreads();
}

// Decode of up to 16 query heads of a KV head. blockIdx as in decode_kernel.
template <class T, class C, int kHeadDim>
__global__ void __launch_bounds__(MmaShape<C, kHeadDim, true>::kThreads, MmaShape<C, kHeadDim, true>::kLeastBlocks)
    mma_decode_kernel(DecodeArgs d) {
    using S = MmaShape<C, kHeadDim, true>;
    const KeyRun run = d.runs[blockIdx.x];
    if (run.sequence < 0) return;
    const PagedAttentionArgs& a = d.attention;
    const int group = static_cast<int>(a.heads / a.kv_heads), chunks = (group + kMmaRows - 1) / kMmaRows;
    const int kv_head = static_cast<int>(blockIdx.y) / chunks, chunk = static_cast<int>(blockIdx.y) % chunks;
    const int64_t first_head = static_cast<int64_t>(kv_head) * group + chunk * kMmaRows;
    const int num_heads = group - chunk * kMmaRows < kMmaRows ? group - chunk * kMmaRows : kMmaRows;
    T* memory = static_cast<T*>(ptx::dynamic_shared());
    const Rows<T, S::kChunks> q = {memory};
    for (int i = static_cast<int>(threadIdx.x); i < kMmaRows * S::kChunks; i += S::kThreads) {
        const int row = i / S::kChunks, dim = i % S::kChunks * kVec;
        Vec<T> values = {};
        if (row < num_heads && dim < a.head_dim)
            values = load_vec(static_cast<const T*>(a.q) + run.row * a.q_stride[0] + (first_head + row) * a.q_stride[1] + dim);
        store_q<C>(q, row, dim / kVec, values);
    }
    MmaState<C, kHeadDim> state;
    attend_tiles<T, C, kHeadDim, true>(state, memory, a, key_places(a, run.sequence, kv_head), run.first_key, run.end_key,
                                       run.first_key, run.end_key, [&](int, int key) { return key >= run.end_key; });

    const Shares<S::kWarps, kHeadDim> shares(memory, kMmaRows);
    const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int row = warp * kMmaRows + lane / 4 + half * 8;
        if (lane % 4 == 0) {
            shares.max[row] = state.max[half];
            shares.sum[row] = state.sum[half];
        }
#pragma unroll
        for (int index = 0; index < kHeadDim / 8; ++index) {
            const DimPair pair = state.pair(index, half, lane);
            shares.values[row * kHeadDim + pair.dim] = pair.low;
            shares.values[row * kHeadDim + pair.dim + 1] = pair.high;
        }
    }
    __syncthreads();
    write_run<T>(d, run, shares, first_head, num_heads);
}

// How launches ask for it.
template <class T, class C, int kHeadDim>
struct MmaDecode {
    using S = MmaShape<C, kHeadDim, true>;
    static constexpr auto kKernel = mma_decode_kernel<T, C, kHeadDim>;
    static constexpr int kThreads = S::kThreads, kHeads = kMmaRows, kShareBytes = Shares<S::kWarps, kHeadDim>::bytes(kMmaRows);
    static constexpr size_t kSharedBytes = S::kBytes > kShareBytes ? S::kBytes : kShareBytes;
};

}  // namespace pagecli::cuda
