// 8-bit floats of the KV cache, e4m3 (OCP 8-bit Floating Point Specification, 2023: bias 7, NaN 0x7f, no infinity): 16-bit
// floats to and from them, two and four at a time. By the instructions of sm_89 and later, or by bits: on older GPUs, and on
// the emulator, so that the tests run what those GPUs run.
#pragma once

#include <type_traits>

#include "element.h"

namespace pagecli::cuda {

struct E4M3 {
    uint8_t bits;
};

constexpr float kMaxE4M3 = 448.0f;

// Round to nearest even, too large to +-448 (infinities too), NaN to NaN.
__device__ inline uint8_t e4m3_by_bits(float x) {
    const unsigned bits = __float_as_uint(x), sign = bits >> 24 & 0x80u, magnitude = bits & 0x7fffffffu;
    constexpr unsigned kInfinity = 0x7f800000u, kLargest = 0x43e00000u, kSmallestNormal = 0x3c800000u;  // 448 and 2^-6
    if (magnitude > kInfinity) return 0x7f;
    if (magnitude >= kLargest) return static_cast<uint8_t>(sign | 0x7eu);
    if (magnitude < kSmallestNormal) {  // steps of 2^-9, the last bit of a float32 near 2^14
        const float shifted = __uint_as_float(magnitude) + 16384.0f;
        return static_cast<uint8_t>(sign | (__float_as_uint(shifted) & 0xfu));
    }
    const unsigned rounded = magnitude + 0x7ffffu + (magnitude >> 20 & 1u);
    return static_cast<uint8_t>(sign | ((rounded >> 20) - ((127u - 7u) << 3)));
}

__device__ inline float e4m3_value_by_bits(unsigned bits) {
    const unsigned magnitude = bits & 0x7fu;
    constexpr float kRebias = 1.329227995784916e36f;  // 2^(127 - 7)
    const float value = magnitude == 0x7fu ? NAN : __uint_as_float(magnitude << 20) * kRebias;
    return bits & 0x80u ? -value : value;
}

__device__ inline float fp16_half(uint32_t pair, int half) {
    return ptx::fp16_value(static_cast<uint16_t>(half == 0 ? pair : pair >> 16));
}

// Two e4m3, the low byte first, as floats.
__device__ inline void widen(float& low, float& high, uint32_t pair) {
#if defined(PAGECLI_PTX_HAS_E4M3)
    const uint32_t halves = ptx::fp16_pair_of_e4m3(static_cast<uint16_t>(pair));
    low = fp16_half(halves, 0);
    high = fp16_half(halves, 1);
#else
    low = e4m3_value_by_bits(pair & 0xffu);
    high = e4m3_value_by_bits(pair >> 8 & 0xffu);
#endif
}

// The same as a pair of T. Every e4m3 is a bfloat16 and a float16, so nothing is rounded.
template <class T>
__device__ inline uint32_t widened(uint32_t pair) {
#if defined(PAGECLI_PTX_HAS_E4M3)
    if constexpr (std::is_same_v<T, Float16>) return ptx::fp16_pair_of_e4m3(static_cast<uint16_t>(pair));
#endif
    float low, high;
    widen(low, high, pair);
    if constexpr (std::is_same_v<T, Float16>)
        return ptx::fp16_bits(low) | static_cast<uint32_t>(ptx::fp16_bits(high)) << 16;
    else
        return __float_as_uint(low) >> 16 | (__float_as_uint(high) & 0xffff0000u);
}

__device__ inline uint16_t narrowed(float low, float high) {
#if defined(PAGECLI_PTX_HAS_E4M3)
    return ptx::e4m3_pair(low, high);
#else
    return static_cast<uint16_t>(e4m3_by_bits(low) | e4m3_by_bits(high) << 8);
#endif
}

// Eight at 8 bytes: what a thread writes into the cache at once.
template <int kCount>
__device__ inline void store_floats(E4M3* to, const float (&values)[kCount]) {
    static_assert(kCount == kVec);
    struct alignas(8) Eight {
        uint16_t pairs[4];
    } out;
#pragma unroll
    for (int i = 0; i < 4; ++i) out.pairs[i] = narrowed(values[2 * i], values[2 * i + 1]);
    *reinterpret_cast<Eight*>(to) = out;
}

// The elements of 16 bytes of shared memory, of any type.
template <class C, int kCount>
__device__ inline void unpack_floats(float (&out)[kCount], int first, const void* sixteen_bytes) {
    if constexpr (std::is_same_v<C, E4M3>) {
        const uint4 words = *static_cast<const uint4*>(sixteen_bytes);
        const uint32_t word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            widen(out[first + 4 * i], out[first + 4 * i + 1], word[i] & 0xffffu);
            widen(out[first + 4 * i + 2], out[first + 4 * i + 3], word[i] >> 16);
        }
    } else {
        constexpr int kEach = 16 / static_cast<int>(sizeof(C));
        struct alignas(16) Piece {
            C at[kEach];
        };
        const Piece piece = *static_cast<const Piece*>(sixteen_bytes);
#pragma unroll
        for (int i = 0; i < kEach; ++i) out[first + i] = to_float(piece.at[i]);
    }
}

// Calls action(T(), C()) with the model's and the cache's element types. e4m3 goes with 16-bit models.
template <class Action>
void with_cache_type(ElementType type, CacheType cache, const Action& action) {
    if (cache == CacheType::model) return with_element_type(type, [&](auto element) { action(element, element); });
    if (type == ElementType::bfloat16) return action(BFloat16(), E4M3());
    action(Float16(), E4M3());
}

}  // namespace pagecli::cuda
