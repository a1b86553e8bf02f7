// Products of bytes with sign, four a lane, exact, and what scales their sums: the same bits on every instruction set.
//   Quads  load_quads(p): 4 width bytes with sign in [-127, 127], four a lane, as accumulate_quads takes them
//   void   accumulate_quads(sum, quads, x): sum += the sum of the products of each lane's four bytes, both with sign; and, where
//          quad_offset is not 0, quad_offset times the sum of x's four bytes, which must be taken off
//   VecF   fused(a, b, c): a * b + c rounded once, on every instruction set
//   void   store_as_bytes(p, v): 64 numbers in [-128, 127] as bytes
#pragma once

#include "vec.h"

namespace pagecli::PAGECLI_ISA {

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)

#if defined(__AVX512VNNI__)
constexpr int32_t quad_offset = 128;  // of weights without sign, which vpdpbusd wants
struct Quads {
    __m512i v;
};
PAGECLI_INLINE Quads load_quads(const int8_t* p) { return {_mm512_xor_si512(_mm512_loadu_si512(p), _mm512_set1_epi8(-128))}; }
PAGECLI_INLINE void accumulate_quads(VecI& sum, Quads quads, VecI x) {
    __m512i v = sum.v;
    __asm__("vpdpbusd %2, %1, %0" : "+v"(v) : "v"(quads.v), "v"(x.v));
    sum.v = v;
}
#else
constexpr int32_t quad_offset = 0;
struct Quads {
    __m512i size;
    __mmask64 negative;
};
PAGECLI_INLINE Quads load_quads(const int8_t* p) {
    const __m512i v = _mm512_loadu_si512(p);
    return {_mm512_abs_epi8(v), _mm512_movepi8_mask(v)};
}
// Sizes times x with the weights' signs: two products of at most 127 * 127 are no more than 16 bits hold.
PAGECLI_INLINE void accumulate_quads(VecI& sum, Quads quads, VecI x) {
    const __m512i ones = _mm512_set1_epi16(1);
    __m512i v = sum.v, signed_x = _mm512_mask_sub_epi8(x.v, quads.negative, _mm512_setzero_si512(), x.v);
    __asm__("vpmaddubsw %1, %2, %1\n\tvpmaddwd %3, %1, %1\n\tvpaddd %1, %0, %0"
            : "+v"(v), "+v"(signed_x)
            : "v"(quads.size), "v"(ones));
    sum.v = v;
}
#endif
PAGECLI_INLINE VecF fused(VecF a, VecF b, VecF c) { return fmadd(a, b, c); }
PAGECLI_INLINE void store_as_bytes(int8_t* p, const VecI (&v)[4]) {
    PAGECLI_UNROLL
    for (int i = 0; i < 4; ++i) _mm_storeu_si128(reinterpret_cast<__m128i*>(p) + i, _mm512_cvtepi32_epi8(v[i].v));
}

#elif defined(__AVX2__) && defined(__FMA__)

constexpr int32_t quad_offset = 0;
struct Quads {
    __m256i v, size;
};
PAGECLI_INLINE Quads load_quads(const int8_t* p) {
    const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return {v, _mm256_abs_epi8(v)};
}
// Sizes times x with the weights' signs: two products of at most 127 * 127 are no more than 16 bits hold.
PAGECLI_INLINE void accumulate_quads(VecI& sum, Quads quads, VecI x) {
    __m256i v = sum.v, products;
    const __m256i ones = _mm256_set1_epi16(1);
    __asm__("vpsignb %2, %4, %1\n\tvpmaddubsw %1, %3, %1\n\tvpmaddwd %5, %1, %1\n\tvpaddd %1, %0, %0"
            : "+x"(v), "=&x"(products)
            : "x"(quads.v), "x"(quads.size), "x"(x.v), "x"(ones));
    sum.v = v;
}
PAGECLI_INLINE VecF fused(VecF a, VecF b, VecF c) { return fmadd(a, b, c); }
PAGECLI_INLINE void store_as_bytes(int8_t* p, const VecI (&v)[8]) {
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    PAGECLI_UNROLL
    for (int i = 0; i < 2; ++i) {
        const __m256i low = _mm256_packs_epi32(v[4 * i].v, v[4 * i + 1].v), high = _mm256_packs_epi32(v[4 * i + 2].v, v[4 * i + 3].v);
        const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p) + i, bytes);
    }
}

#elif defined(PAGECLI_NEON)

constexpr int32_t quad_offset = 0;
using Quads = VecI;
PAGECLI_INLINE Quads load_quads(const int8_t* p) { return load_bytes(reinterpret_cast<const uint8_t*>(p)); }
PAGECLI_INLINE void accumulate_quads(VecI& sum, Quads quads, VecI x) {
    sum.low = vdotq_s32(sum.low, vreinterpretq_s8_s32(quads.low), vreinterpretq_s8_s32(x.low));
    sum.high = vdotq_s32(sum.high, vreinterpretq_s8_s32(quads.high), vreinterpretq_s8_s32(x.high));
}
PAGECLI_INLINE VecF fused(VecF a, VecF b, VecF c) { return fmadd(a, b, c); }
PAGECLI_INLINE int16x8_t narrowed(VecI v) { return vcombine_s16(vmovn_s32(v.low), vmovn_s32(v.high)); }
PAGECLI_INLINE void store_as_bytes(int8_t* p, const VecI (&v)[8]) {
    PAGECLI_UNROLL
    for (int i = 0; i < 4; ++i)
        vst1q_s8(p + 16 * i, vcombine_s8(vmovn_s16(narrowed(v[2 * i])), vmovn_s16(narrowed(v[2 * i + 1]))));
}

#else

constexpr int32_t quad_offset = 0;
using Quads = VecI;
PAGECLI_INLINE Quads load_quads(const int8_t* p) {
    VecI v;
    memcpy(&v.v, p, sizeof v.v);
    return v;
}
PAGECLI_INLINE void accumulate_quads(VecI& sum, Quads quads, VecI x) {
    const Ints w = quads.v, q = x.v;
    sum.v += ((Ints)((Uints)w << 24) >> 24) * ((Ints)((Uints)q << 24) >> 24) +
             ((Ints)((Uints)w << 16) >> 24) * ((Ints)((Uints)q << 16) >> 24) +
             ((Ints)((Uints)w << 8) >> 24) * ((Ints)((Uints)q << 8) >> 24) + (w >> 24) * (q >> 24);
}
PAGECLI_INLINE VecF fused(VecF a, VecF b, VecF c) {
    for (int i = 0; i < VecF::width; ++i) c.v[i] = __builtin_fmaf(a.v[i], b.v[i], c.v[i]);
    return c;
}
PAGECLI_INLINE void store_as_bytes(int8_t* p, const VecI (&v)[4]) {
    for (int i = 0; i < 64; ++i) p[i] = static_cast<int8_t>(v[i / 16].v[i % 16]);
}

#endif

}  // namespace pagecli::PAGECLI_ISA

