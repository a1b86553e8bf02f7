// Queries and keys normed and rotated, and a step's keys and values written into their slots of the paged cache: what three
// kernels do elsewhere, with the same bits. A head lies in a few lanes of a warp, a vector in each, from its load to its store.
#include "device/norm.h"
#include "device/reduce.h"
#include "kv_slots.h"
#include "pagecli/cuda/attention/norm_rotary_store_kv.h"

namespace pagecli::cuda {
namespace {

constexpr int kThreadsByHeads = 512;  // at most, where heads are normed one by one: two such blocks fit a multiprocessor

// Of a token's row of q or k, whose heads lie side by side: its norm's scale, summed as rms_norm sums a row of `dim`.
template <class T>
__device__ float scale_of_row(const T* row, int64_t dim, int threads, float eps, float* partial) {
    const int num_vecs = static_cast<int>(dim / kVec), thread = static_cast<int>(threadIdx.x);
    float sum = 0.0f;
    for (int vec = thread < threads ? thread : num_vecs; vec < num_vecs; vec += threads) {
        float values[kVec];
        load_floats(values, row + vec * kVec);
        add_squares(sum, values);
    }
    return norm_scale(block_sum(sum, partial), dim, eps);
}

// A head's vector `vec` in each lane of a group, whose first lane is `first`; by cos_sin, half cosines and half sines.
__device__ inline void rotate_in_lanes(float (&values)[kVec], int vec, int first, int half, const float* cos_sin) {
    const int pairs = half / kVec;
    const bool is_low = vec < pairs, is_rotated = vec < 2 * pairs;
    const int pair = is_low ? vec : vec - pairs, lane = first + (!is_rotated ? vec : is_low ? vec + pairs : pair);
    float others[kVec], cos[kVec], sin[kVec];
#pragma unroll
    for (int i = 0; i < kVec; ++i) others[i] = __shfl_sync(kAllLanes, values[i], lane);
    if (!is_rotated) return;
    load_floats(cos, cos_sin + pair * kVec);
    load_floats(sin, cos_sin + half + pair * kVec);
#pragma unroll
    for (int i = 0; i < kVec; ++i) values[i] = rotated(values[i], others[i], cos[i], is_low ? -sin[i] : sin[i]);
}

template <class T, class C>
__global__ void __launch_bounds__(kMaxNormThreads) norm_rotary_store_kv_kernel(NormRotaryStoreKVArgs n, int lanes,
                                                                               int q_threads, int k_threads) {
    PAGECLI_SHARED_ARRAY(float, partial, 2 * kMaxWarps);
    const RotaryStoreKVArgs& r = n.rotary;
    const StoreKVArgs& a = r.store;
    const int64_t token = blockIdx.x, slot = a.slot_ids[token];
    if (slot < 0) return;
    T* q = static_cast<T*>(r.q) + token * r.q_stride[0];
    const T *k = static_cast<const T*>(a.k) + token * a.k_stride[0], *v = static_cast<const T*>(a.v) + token * a.v_stride[0];
    float q_scale = 0.0f, k_scale = 0.0f;
    if (n.of_all_heads) {
        q_scale = scale_of_row(q, r.heads * a.head_dim, q_threads, n.eps, partial);
        k_scale = scale_of_row(k, a.kv_heads * a.head_dim, k_threads, n.eps, partial + kMaxWarps);
    }
    C* k_cache = static_cast<C*>(a.k_cache) + slot_offset(a, slot);
    const float* cos_sin = r.rotary_dim > 0 ? r.cos_sin + r.positions[token] * r.cos_sin_stride : nullptr;
    const int vec = static_cast<int>(threadIdx.x) % lanes, at = vec * kVec;
    const int first_lane = static_cast<int>(threadIdx.x) % kWarp - vec;
    const int64_t at_once = static_cast<int>(blockDim.x) / lanes, num_heads = r.heads + a.kv_heads;
    for (int64_t first = 0; first < num_heads; first += at_once) {  // all lanes, for what they exchange
        const int64_t number = first + static_cast<int>(threadIdx.x) / lanes;
        const bool is_query = number < r.heads, has_work = number < num_heads && at < a.head_dim;
        const int64_t head = is_query ? number : number - r.heads;
        float values[kVec] = {};
        if (has_work) load_floats(values, (is_query ? q + head * r.q_stride[1] : k + head * a.k_stride[1]) + at);
        float scale = is_query ? q_scale : k_scale;
        if (!n.of_all_heads) {
            float squares = 0.0f;
            add_squares(squares, values);
            scale = norm_scale(group_sum(squares, lanes), a.head_dim, n.eps);
        }
        if (has_work) {
            scale_by(values, scale, (is_query ? n.q_weight : n.k_weight) + (n.of_all_heads ? head * a.head_dim : 0) + at);
#pragma unroll
            for (float& value : values) value = to_float(from_float<T>(value));
        }
        if (r.rotary_dim > 0) rotate_in_lanes(values, vec, first_lane, static_cast<int>(r.rotary_dim / 2), cos_sin);
        if (has_work && is_query) store_floats(q + head * r.q_stride[1] + at, values);
        if (has_work && !is_query) store_shares<T>(k_cache + head * head_distance(a) + at, values, 1.0f / a.scales.k);
    }
    C* v_cache = static_cast<C*>(a.v_cache) + slot_offset(a, slot);
    copy_vecs(v_cache, v, a.v_stride[1], a, 0, 1.0f / a.scales.v);
}

}  // namespace

void norm_rotary_store_kv(const NormRotaryStoreKVArgs& a, Stream stream) {
    const StoreKVArgs& store = a.rotary.store;
    if (store.tokens == 0) return;
    int lanes = 1;
    while (lanes * kVec < store.head_dim) lanes *= 2;
    const int64_t units = (a.rotary.heads + store.kv_heads) * lanes, rounds = divide_up(units, kThreadsByHeads);
    int threads = static_cast<int>(divide_up(divide_up(units, rounds), kWarp) * kWarp), of_q = 0, of_k = 0;
    if (a.of_all_heads) {
        of_q = norm_threads(a.rotary.heads * store.head_dim);
        of_k = norm_threads(store.kv_heads * store.head_dim);
        threads = of_q > of_k ? of_q : of_k;
    }
    const LaunchShape shape = {store.tokens, 1, 1, threads, stream};
    with_cache_type(store.type, store.cache_type, [&](auto element, auto cached) {
        launch<norm_rotary_store_kv_kernel<decltype(element), decltype(cached)>>(shape, a, lanes, of_q, of_k);
    });
}

}  // namespace pagecli::cuda
