// A token's place in the paged cache, and the rotation on the way there, for the kernels that write it.
#pragma once

#include "device/float8.h"
#include "device/launch.h"
#include "pagecli/cuda/attention/store_kv.h"

namespace pagecli::cuda {

// Where slot `slot`'s vector of KV head 0 begins in the caches, and how far the next head's is.
__device__ inline int64_t slot_offset(const StoreKVArgs& a, int64_t slot) {
    return (slot / a.block_size * a.kv_heads * a.block_size + slot % a.block_size) * a.head_dim;
}
__device__ inline int64_t head_distance(const StoreKVArgs& a) { return a.block_size * a.head_dim; }

// `values` of type T into the cache, times `share` (1 / the cache's scale) where that has fewer bits.
template <class T, class C>
__device__ inline void store_shares(C* to, float (&values)[kVec], float share) {
    if constexpr (!std::is_same_v<T, C>) {
#pragma unroll
        for (float& value : values) value *= share;
    }
    store_floats(to, values);
}

// Dimensions from_dim and up of every KV head: cache points at the slot's head 0. `share`: 1 / the cache's scale.
template <class T, class C>
__device__ void copy_vecs(C* cache, const T* rows, int64_t stride, const StoreKVArgs& a, int64_t from_dim, float share) {
    const int vecs = static_cast<int>((a.head_dim - from_dim) / kVec), units = vecs * static_cast<int>(a.kv_heads);
    for (int unit = static_cast<int>(threadIdx.x); unit < units; unit += static_cast<int>(blockDim.x)) {
        const int64_t head = unit / vecs, at = from_dim + unit % vecs * kVec;
        C* to = cache + head * head_distance(a) + at;
        if constexpr (std::is_same_v<T, C>) {
            store_vec(to, load_vec(rows + head * stride + at));
        } else {
            float values[kVec];
            load_floats(values, rows + head * stride + at);
            store_shares<T>(to, values, share);
        }
    }
}

// x * cos + y * sin with one order of rounding, whatever the compiler makes of what stands around it.
__device__ inline float rotated(float x, float y, float cos, float sin) { return fmaf(x, cos, y * sin); }

}  // namespace pagecli::cuda
