// VecF on NEON (Armv8.2 with dot products): 8 floats in two registers, so that sums of a tile fill the 32 there are. The contract is
// written in vec.h. Numbers are added in the order of vec_avx2.h: what has no bfloat16 dot products has the same bits.
#pragma once

#include <arm_neon.h>
#include <stdint.h>
#include <string.h>

namespace pagecli::PAGECLI_ISA {

struct VecF {
    static constexpr int width = 8;
    float32x4_t low, high;
};
struct VecI {
    int32x4_t low, high;
};

PAGECLI_INLINE VecF zero() { return {vdupq_n_f32(0.0f), vdupq_n_f32(0.0f)}; }
PAGECLI_INLINE VecF broadcast(float x) { return {vdupq_n_f32(x), vdupq_n_f32(x)}; }
PAGECLI_INLINE VecI broadcast_int(int32_t n) { return {vdupq_n_s32(n), vdupq_n_s32(n)}; }
PAGECLI_INLINE VecF load(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4)}; }
PAGECLI_INLINE void store(float* p, VecF v) {
    vst1q_f32(p, v.low);
    vst1q_f32(p + 4, v.high);
}

PAGECLI_INLINE VecF load_partial(const float* p, int count) {
    float lanes[VecF::width] = {};
    memcpy(lanes, p, static_cast<size_t>(count) * sizeof(float));
    return load(lanes);
}
PAGECLI_INLINE void store_partial(float* p, VecF v, int count) {
    float lanes[VecF::width];
    store(lanes, v);
    memcpy(p, lanes, static_cast<size_t>(count) * sizeof(float));
}

PAGECLI_INLINE VecI operator+(VecI a, VecI b) { return {vaddq_s32(a.low, b.low), vaddq_s32(a.high, b.high)}; }
PAGECLI_INLINE VecI operator-(VecI a, VecI b) { return {vsubq_s32(a.low, b.low), vsubq_s32(a.high, b.high)}; }
PAGECLI_INLINE VecI operator&(VecI a, VecI b) { return {vandq_s32(a.low, b.low), vandq_s32(a.high, b.high)}; }
PAGECLI_INLINE VecI operator|(VecI a, VecI b) { return {vorrq_s32(a.low, b.low), vorrq_s32(a.high, b.high)}; }
PAGECLI_INLINE VecI operator^(VecI a, VecI b) { return {veorq_s32(a.low, b.low), veorq_s32(a.high, b.high)}; }
template <int n>
PAGECLI_INLINE VecI shift_left(VecI a) {
    return {vshlq_n_s32(a.low, n), vshlq_n_s32(a.high, n)};
}
template <int n>
PAGECLI_INLINE VecI shift_right(VecI a) {
    if constexpr (n == 0) {  // which the instruction does not have
        return a;
    } else {
        const uint32x4_t low = vreinterpretq_u32_s32(a.low), high = vreinterpretq_u32_s32(a.high);
        return {vreinterpretq_s32_u32(vshrq_n_u32(low, n)), vreinterpretq_s32_u32(vshrq_n_u32(high, n))};
    }
}

PAGECLI_INLINE VecF operator+(VecF a, VecF b) { return {vaddq_f32(a.low, b.low), vaddq_f32(a.high, b.high)}; }
PAGECLI_INLINE VecF operator-(VecF a, VecF b) { return {vsubq_f32(a.low, b.low), vsubq_f32(a.high, b.high)}; }
PAGECLI_INLINE VecF operator*(VecF a, VecF b) { return {vmulq_f32(a.low, b.low), vmulq_f32(a.high, b.high)}; }
PAGECLI_INLINE VecF operator/(VecF a, VecF b) { return {vdivq_f32(a.low, b.low), vdivq_f32(a.high, b.high)}; }
PAGECLI_INLINE VecF fmadd(VecF a, VecF b, VecF c) { return {vfmaq_f32(c.low, a.low, b.low), vfmaq_f32(c.high, a.high, b.high)}; }
PAGECLI_INLINE void accumulate(VecF& sum, VecF a, VecF b) { sum = fmadd(a, b, sum); }
PAGECLI_INLINE VecF sqrt(VecF v) { return {vsqrtq_f32(v.low), vsqrtq_f32(v.high)}; }

PAGECLI_INLINE float32x4_t larger(float32x4_t a, float32x4_t b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
PAGECLI_INLINE float32x4_t smaller(float32x4_t a, float32x4_t b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
PAGECLI_INLINE VecF max(VecF a, VecF b) { return {larger(a.low, b.low), larger(a.high, b.high)}; }
PAGECLI_INLINE VecF min(VecF a, VecF b) { return {smaller(a.low, b.low), smaller(a.high, b.high)}; }
PAGECLI_INLINE VecF select_less(VecF a, VecF b, VecF x, VecF y) {
    return {vbslq_f32(vcltq_f32(a.low, b.low), x.low, y.low), vbslq_f32(vcltq_f32(a.high, b.high), x.high, y.high)};
}

PAGECLI_INLINE VecF select_bits(uint32_t n, VecF x, VecF y) {
    const uint32x4_t given = vdupq_n_u32(n), low = {1, 2, 4, 8}, high = {16, 32, 64, 128};
    return {vbslq_f32(vtstq_u32(given, low), x.low, y.low), vbslq_f32(vtstq_u32(given, high), x.high, y.high)};
}

PAGECLI_INLINE VecF interleave_low(VecF a, VecF b) { return {vzip1q_f32(a.low, b.low), vzip2q_f32(a.low, b.low)}; }
PAGECLI_INLINE VecF interleave_high(VecF a, VecF b) { return {vzip1q_f32(a.high, b.high), vzip2q_f32(a.high, b.high)}; }

PAGECLI_INLINE VecI bits(VecF v) { return {vreinterpretq_s32_f32(v.low), vreinterpretq_s32_f32(v.high)}; }
PAGECLI_INLINE VecF from_bits(VecI i) { return {vreinterpretq_f32_s32(i.low), vreinterpretq_f32_s32(i.high)}; }
PAGECLI_INLINE VecI round_to_int(VecF v) { return {vcvtnq_s32_f32(v.low), vcvtnq_s32_f32(v.high)}; }
PAGECLI_INLINE VecF to_float(VecI i) { return {vcvtq_f32_s32(i.low), vcvtq_f32_s32(i.high)}; }

PAGECLI_INLINE VecF load_bf16(const uint16_t* p) {
    const uint16x8_t half = vld1q_u16(p);
    return {vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(half), 16)), vreinterpretq_f32_u32(vshll_high_n_u16(half, 16))};
}

PAGECLI_INLINE VecF load_f16(const uint16_t* p) {
    const float16x8_t half = vreinterpretq_f16_u16(vld1q_u16(p));
    return {vcvt_f32_f16(vget_low_f16(half)), vcvt_high_f32_f16(half)};
}

PAGECLI_INLINE VecF load_int8(const int8_t* p) {
    const int16x8_t wide = vmovl_s8(vld1_s8(p));
    return to_float({vmovl_s16(vget_low_s16(wide)), vmovl_high_s16(wide)});
}

PAGECLI_INLINE uint16x4_t rounded_bf16(float32x4_t v) {
    const uint32x4_t u = vreinterpretq_u32_f32(v), odd = vandq_u32(vshrq_n_u32(u, 16), vdupq_n_u32(1));
    const uint32x4_t rounded = vshrq_n_u32(vaddq_u32(u, vaddq_u32(odd, vdupq_n_u32(0x7fff))), 16);
    return vmovn_u32(vbslq_u32(vceqq_f32(v, v), rounded, vdupq_n_u32(0x7fc0)));
}
PAGECLI_INLINE void store_bf16(uint16_t* p, VecF v) { vst1q_u16(p, vcombine_u16(rounded_bf16(v.low), rounded_bf16(v.high))); }

PAGECLI_INLINE float reduce_add(VecF v) {
    const float32x4_t four = vaddq_f32(v.low, v.high);
    const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}
PAGECLI_INLINE float reduce_max(VecF v) {
    const float32x4_t four = larger(v.low, v.high), two = larger(four, vextq_f32(four, four, 2));
    return vgetq_lane_f32(larger(two, vextq_f32(two, two, 1)), 0);
}

PAGECLI_INLINE VecI load_bytes(const uint8_t* p) {
    return {vreinterpretq_s32_u8(vld1q_u8(p)), vreinterpretq_s32_u8(vld1q_u8(p + 16))};
}
PAGECLI_INLINE VecI load_pairs(const uint16_t* p) {
    return {vreinterpretq_s32_u16(vld1q_u16(p)), vreinterpretq_s32_u16(vld1q_u16(p + 8))};
}

PAGECLI_INLINE VecI load_int8_pairs(const int8_t* p) {
    const int8x16_t bytes = vld1q_s8(p);
    return {vreinterpretq_s32_s16(vmovl_s8(vget_low_s8(bytes))), vreinterpretq_s32_s16(vmovl_high_s8(bytes))};
}
PAGECLI_INLINE int32x4_t with_int16_products(int32x4_t sum, int32x4_t a, int32x4_t b) {
    const int16x8_t left = vreinterpretq_s16_s32(a), right = vreinterpretq_s16_s32(b);
    return vaddq_s32(sum, vpaddq_s32(vmull_s16(vget_low_s16(left), vget_low_s16(right)), vmull_high_s16(left, right)));
}
PAGECLI_INLINE void accumulate_int16(VecI& sum, VecI a, VecI b) {
    sum = {with_int16_products(sum.low, a.low, b.low), with_int16_products(sum.high, a.high, b.high)};
}

PAGECLI_INLINE int32x4_t with_byte_products(int32x4_t sum, int32x4_t a, int32x4_t b) {
    const int8x16_t right = vreinterpretq_s8_s32(b);
#if defined(__ARM_FEATURE_MATMUL_INT8)
    return vusdotq_s32(sum, vreinterpretq_u8_s32(a), right);
#else  // a - 128 has a sign; 128 times the sum of b's bytes is added again
    const int8x16_t left = veorq_s8(vreinterpretq_s8_s32(a), vdupq_n_s8(-128)), half = vdupq_n_s8(64);
    return vdotq_s32(vdotq_s32(vdotq_s32(sum, left, right), right, half), right, half);
#endif
}
PAGECLI_INLINE void accumulate_bytes(VecI& sum, VecI a, VecI b) {
    sum = {with_byte_products(sum.low, a.low, b.low), with_byte_products(sum.high, a.high, b.high)};
}

}  // namespace pagecli::PAGECLI_ISA
