// Decode: one query against the run of keys of a plan, bound by memory. A lane owns 8 dimensions (16 of an e4m3 cache) of the
// keys of its place in the warp: it copies them to shared memory with cp.async several iterations ahead and is the only one to
// read them there, so the loop has no barrier. Groups of 4 and more query heads take the tensor cores instead
// (paged_attention_mma.h). T: element of q and out; C: of the cache.
#pragma once

#include "attention_state.h"
#include "device/launch.h"
#include "paged_attention_mma.h"

namespace pagecli::cuda {

constexpr int kThreads = 128, kWarps = kThreads / kWarp, kStages = 4;

template <class C, int kHeadDim>
struct Layout {
    static constexpr int kDims = sizeof(C) == 1 ? 16 : kVec;                    // of a key that a lane owns
    static constexpr int kPieces = kDims * static_cast<int>(sizeof(C)) / 16;    // of 16 bytes in them
    static constexpr int kEach = kDims / kPieces;                               // elements of a piece
    static constexpr int kUnroll = 4 / kPieces;                                 // keys of a lane in one iteration
    static constexpr int kLanes = kHeadDim / kDims;                             // lanes that share a key
    static constexpr int kKeysAtOnce = kWarp / kLanes;                     // keys a warp looks at together
    static constexpr int kKeys = kWarps * kKeysAtOnce * kUnroll;           // keys of an iteration
    static constexpr int kShares = kWarps * kKeysAtOnce;
    static constexpr int kStagingBytes = kStages * 2 * kUnroll * kPieces * kThreads * 16;
};

// The copies of one lane: piece by piece, a warp's 16-byte pieces side by side.
template <class C, int kHeadDim>
class Staging {
    using L = Layout<C, kHeadDim>;

 public:
    __device__ Staging(void* memory) : mine_(static_cast<uint4*>(memory) + threadIdx.x) {}

    __device__ void copy(int stage, int which, int u, const C* from, bool wanted) {
        const auto* pieces = reinterpret_cast<const uint4*>(from);
#pragma unroll
        for (int p = 0; p < L::kPieces; ++p) ptx::copy_async_16(at(stage, which, u, p), pieces + p, wanted);
    }
    __device__ void load(float (&out)[L::kDims], int stage, int which, int u) const {
#pragma unroll
        for (int p = 0; p < L::kPieces; ++p) unpack_floats<C>(out, p * L::kEach, at(stage, which, u, p));
    }

 private:
    __device__ uint4* at(int stage, int which, int u, int p) const {
        return mine_ + (((stage % kStages * 2 + which) * L::kUnroll + u) * L::kPieces + p) * kThreads;
    }
    uint4* mine_;
};

// One lane's online softmax of kHeads query heads, over the keys of its place.
template <int kHeads, int kDims>
struct LaneState {
    float max[kHeads], sum[kHeads], values[kHeads][kDims];
};

template <class C, int kHeadDim, int kHeads, int kDims>
__device__ void attend(LaneState<kHeads, kDims>& state, const float (&q)[kHeads][kDims], const Staging<C, kHeadDim>& staging,
                       int stage, int first_key, int end_key) {
    using L = Layout<C, kHeadDim>;
    float scores[L::kUnroll][kHeads];
#pragma unroll
    for (int u = 0; u < L::kUnroll; ++u) {
        float key[kDims];
        staging.load(key, stage, 0, u);
#pragma unroll
        for (int h = 0; h < kHeads; ++h) {
            float score = 0.0f;
#pragma unroll
            for (int i = 0; i < kDims; ++i) score += q[h][i] * key[i];
#pragma unroll
            for (int lanes = L::kLanes / 2; lanes > 0; lanes /= 2) score += __shfl_xor_sync(kAllLanes, score, lanes);
            scores[u][h] = first_key + u * L::kKeysAtOnce < end_key ? score : -INFINITY;
        }
    }
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
        float max = state.max[h];
#pragma unroll
        for (int u = 0; u < L::kUnroll; ++u) max = fmaxf(max, scores[u][h]);
        const float kept = weight_below(state.max[h], max);
        state.max[h] = max;
        state.sum[h] *= kept;
#pragma unroll
        for (int i = 0; i < kDims; ++i) state.values[h][i] *= kept;
#pragma unroll
        for (int u = 0; u < L::kUnroll; ++u) {
            scores[u][h] = weight_below(scores[u][h], max);
            state.sum[h] += scores[u][h];
        }
    }
#pragma unroll
    for (int u = 0; u < L::kUnroll; ++u) {
        float value[kDims];
        staging.load(value, stage, 1, u);
#pragma unroll
        for (int h = 0; h < kHeads; ++h)
#pragma unroll
            for (int i = 0; i < kDims; ++i) state.values[h][i] += scores[u][h] * value[i];
    }
}

// blockIdx.x: run; blockIdx.y: KV head and, of its query heads, the chunk of kHeads.
template <class T, class C, int kHeadDim, int kHeads>
__global__ void __launch_bounds__(kThreads) decode_kernel(DecodeArgs d) {
    using L = Layout<C, kHeadDim>;
    const KeyRun run = d.runs[blockIdx.x];
    if (run.sequence < 0) return;
    const PagedAttentionArgs& a = d.attention;
    const int group = static_cast<int>(a.heads / a.kv_heads), chunks = (group + kHeads - 1) / kHeads;
    const int kv_head = static_cast<int>(blockIdx.y) / chunks, chunk = static_cast<int>(blockIdx.y) % chunks;
    const int64_t first_head = static_cast<int64_t>(kv_head) * group + chunk * kHeads;
    const int num_heads = group - chunk * kHeads < kHeads ? group - chunk * kHeads : kHeads;
    const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
    const int dim = lane % L::kLanes * L::kDims, place = lane / L::kLanes;
    const bool has_dim = dim < a.head_dim;

    LaneState<kHeads, L::kDims> state;
    float q[kHeads][L::kDims];
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
        state.max[h] = -INFINITY;
        state.sum[h] = 0.0f;
#pragma unroll
        for (int i = 0; i < L::kDims; ++i) state.values[h][i] = q[h][i] = 0.0f;
        if (h < num_heads && has_dim)
            load_floats(q[h], static_cast<const T*>(a.q) + run.row * a.q_stride[0] + (first_head + h) * a.q_stride[1] + dim);
#pragma unroll
        for (int i = 0; i < L::kDims; ++i) q[h][i] *= a.scale * kLog2E;
    }

    const KeyPlaces places = key_places(a, run.sequence, kv_head);
    Staging<C, kHeadDim> staging(ptx::dynamic_shared());
    const int my_first_key = run.first_key + warp * L::kUnroll * L::kKeysAtOnce + place;
    const int iterations = (run.end_key - run.first_key + L::kKeys - 1) / L::kKeys;
    int32_t blocks[L::kUnroll];  // of the keys to be copied next: read one iteration before they are needed
    const auto find_blocks = [&](int iteration) {
#pragma unroll
        for (int u = 0; u < L::kUnroll; ++u) {
            const int key = my_first_key + iteration * L::kKeys + u * L::kKeysAtOnce;
            blocks[u] = key < run.end_key ? places.block_of(key) : 0;
        }
    };
    const auto copy = [&](int iteration) {
#pragma unroll
        for (int u = 0; u < L::kUnroll; ++u) {
            const int key = my_first_key + iteration * L::kKeys + u * L::kKeysAtOnce;
            const bool wanted = has_dim && key < run.end_key;
            const int64_t offset = wanted ? places.offset(blocks[u], key) + dim : 0;
            staging.copy(iteration, 0, u, static_cast<const C*>(a.k_cache) + offset, wanted);
            staging.copy(iteration, 1, u, static_cast<const C*>(a.v_cache) + offset, wanted);
        }
        ptx::commit_copies();
        find_blocks(iteration + 1);
    };
    find_blocks(0);
#pragma unroll
    for (int i = 0; i < kStages - 1; ++i) copy(i);
    for (int i = 0; i < iterations; ++i) {
        copy(i + kStages - 1);
        ptx::wait_for_copies<kStages - 1>();
        attend<C, kHeadDim, kHeads>(state, q, staging, i, my_first_key + i * L::kKeys, run.end_key);
    }
    ptx::wait_for_copies<0>();
    __syncthreads();  // the staging memory is free for the shares

    const Shares<L::kShares, kHeadDim> shares(ptx::dynamic_shared(), kHeads);
    const int share = warp * L::kKeysAtOnce + place;
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
        if (dim == 0) {
            shares.max[share * kHeads + h] = state.max[h];
            shares.sum[share * kHeads + h] = state.sum[h];
        }
        store_floats(shares.values + (share * kHeads + h) * kHeadDim + dim, state.values[h]);
    }
    __syncthreads();
    write_run<T>(d, run, shares, first_head, num_heads);
}

// out[row] from its shares: blockIdx.x is the merge, blockIdx.y the query head, a thread's element its dimension.
template <class T>
__global__ void __launch_bounds__(kMaxAttentionHeadDim) merge_kernel(DecodeArgs d) {
    const Merge merge = d.merges[blockIdx.x];
    const int64_t head = blockIdx.y, dim = threadIdx.x;
    const PagedAttentionArgs& a = d.attention;
    if (merge.row < 0 || dim >= a.head_dim) return;
    float max = -INFINITY, sum = 0.0f, value = 0.0f;
    for (int i = 0; i < merge.num_partials; ++i)
        max = fmaxf(max, d.partial_stats[2 * ((merge.first_partial + i) * a.heads + head)]);
#pragma unroll 4
    for (int i = 0; i < merge.num_partials; ++i) {
        const int64_t at = (merge.first_partial + i) * a.heads + head;
        const float weight = weight_below(d.partial_stats[2 * at], max);
        sum += weight * d.partial_stats[2 * at + 1];
        value += weight * d.partial_out[at * a.head_dim + dim];
    }
    T* out = static_cast<T*>(a.out) + merge.row * a.out_stride[0] + head * a.out_stride[1];
    out[dim] = from_float<T>(value / divisor(a, head, max, sum) * a.v_scale);
}

// How launches ask for decode_kernel; as MmaDecode.
template <class T, class C, int kHeadDim, int kHeadsEach>
struct VectorDecode {
    using L = Layout<C, kHeadDim>;
    static constexpr auto kKernel = decode_kernel<T, C, kHeadDim, kHeadsEach>;
    static constexpr int kThreads = cuda::kThreads, kHeads = kHeadsEach;
    static constexpr int kShareBytes = Shares<L::kShares, kHeadDim>::bytes(kHeads);
    static constexpr size_t kSharedBytes = L::kStagingBytes > kShareBytes ? L::kStagingBytes : kShareBytes;
};

// use(kernel) with the kernel for `group` query heads a KV head.
template <class T, class C, int kHeadDim, class Use>
auto with_kernel_for_group(int64_t group, const Use& use) {
    if constexpr (sizeof(T) == 2) {
        if (group >= 4) return use(MmaDecode<T, C, kHeadDim>());
        if (group == 1) return use(VectorDecode<T, C, kHeadDim, 1>());
    }
    return use(VectorDecode<T, C, kHeadDim, sizeof(C) == 1 ? 2 : 4>());
}

template <class T, class C, class Use>
auto with_decode_kernel(int64_t group, int64_t head_dim, const Use& use) {
    if (head_dim <= 64) return with_kernel_for_group<T, C, 64>(group, use);
    if (head_dim <= 128) return with_kernel_for_group<T, C, 128>(group, use);
    return with_kernel_for_group<T, C, 256>(group, use);
}

template <class T, class C>
int resident_decode_blocks(int64_t group, int64_t head_dim) {
    return with_decode_kernel<T, C>(group, head_dim, [](auto kernel) {
        using K = decltype(kernel);
        return resident_blocks<K::kKernel, K::kSharedBytes>(K::kThreads);
    });
}

template <class T, class C>
void decode(const DecodeArgs& d, Stream stream) {
    const PagedAttentionArgs& a = d.attention;
    const int64_t group = a.heads / a.kv_heads;
    with_decode_kernel<T, C>(group, a.head_dim, [&](auto kernel) {
        using K = decltype(kernel);
        launch<K::kKernel, K::kSharedBytes>({d.num_runs, a.kv_heads * divide_up(group, K::kHeads), 1, K::kThreads, stream}, d);
    });
    if (d.num_merges == 0) return;
    const int threads = static_cast<int>(divide_up(a.head_dim, kWarp) * kWarp);
    launch<merge_kernel<T>>({d.num_merges, a.heads, 1, threads, stream}, d);
}

}  // namespace pagecli::cuda
