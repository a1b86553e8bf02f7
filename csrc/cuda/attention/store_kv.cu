// Writes a step's keys and values into their slots of the paged cache, k rotated on the way where positions are rotary: q and k
// are then read and written once, and no rotated k is kept beside the cache.
#include "kv_slots.h"
#include "pagecli/cuda/attention/rotary_store_kv.h"

namespace pagecli::cuda {
namespace {

constexpr int kMaxStoreThreads = 256;

template <class T, class C>
__global__ void __launch_bounds__(kMaxStoreThreads) store_kv_kernel(StoreKVArgs a) {
    const int64_t token = blockIdx.x, slot = a.slot_ids[token];
    if (slot < 0) return;
    const int64_t at = slot_offset(a, slot);
    const T *k = static_cast<const T*>(a.k) + token * a.k_stride[0], *v = static_cast<const T*>(a.v) + token * a.v_stride[0];
    copy_vecs(static_cast<C*>(a.k_cache) + at, k, a.k_stride[1], a, 0, 1.0f / a.scales.k);
    copy_vecs(static_cast<C*>(a.v_cache) + at, v, a.v_stride[1], a, 0, 1.0f / a.scales.v);
}

// to[0:8] and to[half:half + 8] = `share` of the rotated from[0:8] and from[half:half + 8]; to may be from.
template <class T, class C>
__device__ inline void rotate(C* to, const T* from, int64_t half, const float* cos, const float* sin, float share) {
    float a[kVec], b[kVec], c[kVec], s[kVec];
    load_floats(a, from);
    load_floats(b, from + half);
    load_floats(c, cos);
    load_floats(s, sin);
#pragma unroll
    for (int i = 0; i < kVec; ++i) {
        const float x = a[i], y = b[i];
        a[i] = rotated(x, y, c[i], -s[i]);
        b[i] = rotated(y, x, c[i], s[i]);
    }
    store_shares<T>(to, a, share);
    store_shares<T>(to + half, b, share);
}

template <class T, class C>
__global__ void __launch_bounds__(kMaxStoreThreads) rotary_store_kv_kernel(RotaryStoreKVArgs r) {
    const StoreKVArgs& a = r.store;
    const int64_t token = blockIdx.x, slot = a.slot_ids[token], half = r.rotary_dim / 2;
    if (slot < 0) return;
    const float* cos = r.cos_sin + r.positions[token] * r.cos_sin_stride;
    const T* k = static_cast<const T*>(a.k) + token * a.k_stride[0];
    const int64_t slot_at = slot_offset(a, slot);
    const float k_share = 1.0f / a.scales.k;
    C* k_cache = static_cast<C*>(a.k_cache) + slot_at;
    T* q = static_cast<T*>(r.q) + token * r.q_stride[0];
    const int pairs = static_cast<int>(half / kVec), units = pairs * static_cast<int>(r.heads + a.kv_heads);
    for (int unit = static_cast<int>(threadIdx.x); unit < units; unit += static_cast<int>(blockDim.x)) {
        const int64_t head = unit / pairs, at = unit % pairs * kVec;
        if (head < r.heads) {
            T* place = q + head * r.q_stride[1] + at;
            rotate(place, place, half, cos + at, cos + half + at, 1.0f);
        } else {
            const int64_t kv_head = head - r.heads;
            rotate(k_cache + kv_head * head_distance(a) + at, k + kv_head * a.k_stride[1] + at, half, cos + at,
                   cos + half + at, k_share);
        }
    }
    copy_vecs(k_cache, k, a.k_stride[1], a, r.rotary_dim, k_share);
    const T* v = static_cast<const T*>(a.v) + token * a.v_stride[0];
    copy_vecs(static_cast<C*>(a.v_cache) + slot_at, v, a.v_stride[1], a, 0, 1.0f / a.scales.v);
}

}  // namespace

void store_kv(const StoreKVArgs& a, Stream stream) {
    if (a.tokens == 0) return;
    const LaunchShape shape = {a.tokens, 1, 1, whole_warps(a.kv_heads * a.head_dim / kVec, kMaxStoreThreads), stream};
    with_cache_type(a.type, a.cache_type, [&](auto element, auto cached) {
        launch<store_kv_kernel<decltype(element), decltype(cached)>>(shape, a);
    });
}

void rotary_store_kv(const RotaryStoreKVArgs& a, Stream stream) {
    if (a.store.tokens == 0) return;
    const int64_t units = (a.heads + a.store.kv_heads) * a.rotary_dim / 2 / kVec;
    const LaunchShape shape = {a.store.tokens, 1, 1, whole_warps(units, kMaxStoreThreads), stream};
    with_cache_type(a.store.type, a.store.cache_type, [&](auto element, auto cached) {
        launch<rotary_store_kv_kernel<decltype(element), decltype(cached)>>(shape, a);
    });
}

}  // namespace pagecli::cuda
