// How one slot of V of one KV head lies in the cache and is read: float32 and bfloat16 as they are, int8 with the slot's scale
// behind its values. An int8 slot is computed from its own values alone, so what a row reads does not depend on its batch.
#pragma once

#include "isa/vec.h"
#include "pagecli/attention/kv_cache.h"

namespace pagecli::PAGECLI_ISA {

template <class T>
constexpr bool has_scales = false;
template <>
constexpr bool has_scales<int8_t> = true;

// Elements of T from one slot of a head to the next.
template <class T>
constexpr int64_t slot_elements(int64_t head_dim) {
    return head_dim + (has_scales<T> ? kKVScaleBytes : 0);
}

PAGECLI_INLINE VecF load_kv(const float* p) { return load(p); }
PAGECLI_INLINE VecF load_kv(const uint16_t* p) { return load_bf16(p); }
PAGECLI_INLINE VecF load_kv(const int8_t* p) { return load_int8(p); }  // without its scale
PAGECLI_INLINE VecF load_kv(const float* p, int count) { return load_partial(p, count); }
PAGECLI_INLINE VecF load_kv(const uint16_t* p, int count) { return load_bf16_partial(p, count); }
PAGECLI_INLINE VecF load_kv(const int8_t* p, int count) { return load_int8_partial(p, count); }

// Two neighbouring vectors in the order that is cheapest to read: bfloat16 as those at even and those at odd places, others as
// they lie. The sums of a row are kept in the same order up to paired_dims.
PAGECLI_INLINE VecF load_first(const float* p) { return load(p); }
PAGECLI_INLINE VecF load_first(const uint16_t* p) { return widen_low(load_pairs(p)); }
PAGECLI_INLINE VecF load_first(const int8_t* p) { return load_int8(p); }
PAGECLI_INLINE VecF load_second(const float* p) { return load(p + VecF::width); }
PAGECLI_INLINE VecF load_second(const uint16_t* p) { return widen_high(load_pairs(p)); }
PAGECLI_INLINE VecF load_second(const int8_t* p) { return load_int8(p + VecF::width); }
template <class T>
constexpr bool has_pairs = false;
template <>
constexpr bool has_pairs<uint16_t> = true;
PAGECLI_INLINE int paired_dims(int dim) { return dim - dim % (2 * VecF::width); }

// to[dim] = from[dim] / total, from the order of the sums into that of memory.
template <class T>
static inline void finish_row(float* to, const float* from, float total, int dim) {
    constexpr int width = VecF::width;
    int d = 0;
    for (; has_pairs<T> && d < paired_dims(dim); d += 2 * width) {
        for (int i = 0; i < width; ++i) {
            to[d + 2 * i] = from[d + i] / total;
            to[d + 2 * i + 1] = from[d + width + i] / total;
        }
    }
    for (; d < dim; ++d) to[d] = from[d] / total;
}

PAGECLI_INLINE float slot_scale(const int8_t* slot, int64_t head_dim) {
    float scale;  // at any address: head_dim may be odd
    memcpy(&scale, slot + head_dim, sizeof scale);
    return scale;
}

// values[dim] = about scale * slot[dim], scale = largest size / 127, to the nearest, even on ties. What is not finite makes the
// scale NaN and all bytes 0: whoever sees the slot gets NaN, as from a float cache.
PAGECLI_INLINE void store_slot(int8_t* slot, const float* values, int dim) {
    VecF largest = zero(), poison = zero();
    const int whole = dim - dim % VecF::width, rest = dim - whole;
    for (int d = 0; d < dim; d += VecF::width) {
        const VecF v = d < whole ? load(values + d) : load_partial(values + whole, rest);
        largest = max(abs(v), largest);
        poison = fmadd(v, zero(), poison);
    }
    const float size = reduce_max(largest), not_finite = reduce_add(poison);
    const bool finite = not_finite == 0.0f;
    const float scale = finite ? size / 127.0f : not_finite;
    const VecF inverse = broadcast(finite && size > 1e-30f ? 127.0f / size : 0.0f);
    for (int d = 0; d < dim; d += VecF::width) {
        const int count = min_int(VecF::width, dim - d);
        const VecF v = count == VecF::width ? load(values + d) : load_partial(values + d, count);
        const VecF rounded = from_bits(round_to_int(v * inverse));
        int32_t lanes[VecF::width];
        memcpy(lanes, &rounded, sizeof lanes);
        for (int i = 0; i < count; ++i) slot[d + i] = finite ? static_cast<int8_t>(lanes[i]) : int8_t{0};
    }
    memcpy(slot + dim, &scale, sizeof scale);
}

}  // namespace pagecli::PAGECLI_ISA
