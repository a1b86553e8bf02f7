// Writes a step's keys and values into their slots of the paged cache.
#include "isa/vec.h"
#include "kv_slot.h"
#include "pagecli/attention/store_kv.h"
#include "parallel.h"

namespace pagecli::PAGECLI_ISA {
namespace {

void copy(float* out, const float* x, int64_t dim) { memcpy(out, x, static_cast<size_t>(dim) * sizeof(float)); }

void copy(uint16_t* out, const float* x, int64_t dim) {
    int64_t i = 0;
    for (; i + VecF::width <= dim; i += VecF::width) store_bf16(out + i, load(x + i));
    const int rest = static_cast<int>(dim - i);
    if (rest > 0) store_bf16_partial(out + i, load_partial(x + i, rest), rest);
}

void copy(int8_t* out, const float* x, int64_t dim) { store_slot(out, x, static_cast<int>(dim)); }

// K's slot: its numbers one dimension after another, `block_size` elements apart, from `block`'s dimension 0 on.
template <class T>
void spread(T* block, int64_t slot, int64_t block_size, const float* x, int64_t dim) {
    T values[kMaxHeadDim + kKVScaleBytes];
    copy(values, x, dim);
    T* out = block + slot;
    for (int64_t d = 0; d < dim; ++d, out += block_size) *out = values[d];
    if constexpr (has_scales<T>) memcpy(block + dim * block_size + slot * kKVScaleBytes, values + dim, kKVScaleBytes);
}

// Brings near the lines that `spread` will write: one of a decoding row's is seldom there, and each store would wait for its own.
template <class T>
PAGECLI_INLINE void fetch_spread(const T* block, int64_t slot, int64_t block_size, int64_t dim) {
    constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(T));
    const int64_t step = block_size < kLine ? kLine : block_size;
    for (int64_t at = slot; at < dim * block_size; at += step) __builtin_prefetch(block + at, 1, 3);
}

template <class T>
void store_rows(const StoreKVArgs& a) {
    const int64_t slot_size = slot_elements<T>(a.head_dim), head_size = a.block_size * slot_size;
    parallel_for(a.tokens, row_grain(2 * a.kv_heads * a.head_dim), [=, &a](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t) {
            const int64_t block = a.slot_ids[t] / a.block_size, slot = a.slot_ids[t] % a.block_size;
            for (int64_t h = 0; h < a.kv_heads; ++h) {
                const int64_t at = (block * a.kv_heads + h) * head_size;
                if (h + 1 < a.kv_heads) fetch_spread(static_cast<const T*>(a.k_cache) + at + head_size, slot, a.block_size, a.head_dim);
                spread(static_cast<T*>(a.k_cache) + at, slot, a.block_size, a.k + t * a.k_stride[0] + h * a.k_stride[1], a.head_dim);
                copy(static_cast<T*>(a.v_cache) + at + slot * slot_size, a.v + t * a.v_stride[0] + h * a.v_stride[1], a.head_dim);
            }
        }
    });
}

}  // namespace

void store_kv(const StoreKVArgs& a) {
    if (a.type == KVType::float32) {
        store_rows<float>(a);
    } else if (a.type == KVType::bfloat16) {
        store_rows<uint16_t>(a);
    } else {
        store_rows<int8_t>(a);
    }
}

}  // namespace pagecli::PAGECLI_ISA
