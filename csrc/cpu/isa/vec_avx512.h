// VecF on AVX-512 (F, BW, DQ, VL): 16 floats. The contract is written in vec.h.
#pragma once

// gcc 12 takes the deliberately undefined registers inside its own header for a mistake (gcc bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#include <stdint.h>
#include <string.h>

namespace pagecli::PAGECLI_ISA {

struct VecF {
    static constexpr int width = 16;
    __m512 v;
};
struct VecI {
    __m512i v;
};

PAGECLI_INLINE VecF zero() { return {_mm512_setzero_ps()}; }
PAGECLI_INLINE VecF broadcast(float x) { return {_mm512_set1_ps(x)}; }
PAGECLI_INLINE VecI broadcast_int(int32_t n) { return {_mm512_set1_epi32(n)}; }
PAGECLI_INLINE VecF load(const float* p) { return {_mm512_loadu_ps(p)}; }
PAGECLI_INLINE void store(float* p, VecF v) { _mm512_storeu_ps(p, v.v); }

PAGECLI_INLINE __mmask16 first_lanes(int count) { return static_cast<__mmask16>((1u << count) - 1u); }
#if defined(PAGECLI_SANITIZE)  // which do not see what masked instructions touch
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
#else
PAGECLI_INLINE VecF load_partial(const float* p, int count) { return {_mm512_maskz_loadu_ps(first_lanes(count), p)}; }
PAGECLI_INLINE void store_partial(float* p, VecF v, int count) { _mm512_mask_storeu_ps(p, first_lanes(count), v.v); }
#endif

PAGECLI_INLINE VecI operator+(VecI a, VecI b) { return {_mm512_add_epi32(a.v, b.v)}; }
PAGECLI_INLINE VecI operator-(VecI a, VecI b) { return {_mm512_sub_epi32(a.v, b.v)}; }
PAGECLI_INLINE VecI operator&(VecI a, VecI b) { return {_mm512_and_si512(a.v, b.v)}; }
PAGECLI_INLINE VecI operator|(VecI a, VecI b) { return {_mm512_or_si512(a.v, b.v)}; }
PAGECLI_INLINE VecI operator^(VecI a, VecI b) { return {_mm512_xor_si512(a.v, b.v)}; }
template <int n>
PAGECLI_INLINE VecI shift_left(VecI a) {
    return {_mm512_slli_epi32(a.v, n)};
}
template <int n>
PAGECLI_INLINE VecI shift_right(VecI a) {
    return {_mm512_srli_epi32(a.v, n)};
}

PAGECLI_INLINE VecF operator+(VecF a, VecF b) { return {_mm512_add_ps(a.v, b.v)}; }
PAGECLI_INLINE VecF operator-(VecF a, VecF b) { return {_mm512_sub_ps(a.v, b.v)}; }
PAGECLI_INLINE VecF operator*(VecF a, VecF b) { return {_mm512_mul_ps(a.v, b.v)}; }
PAGECLI_INLINE VecF operator/(VecF a, VecF b) { return {_mm512_div_ps(a.v, b.v)}; }
PAGECLI_INLINE VecF fmadd(VecF a, VecF b, VecF c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
PAGECLI_INLINE void accumulate(VecF& sum, VecF a, VecF b) {
    __m512 v = sum.v;
    __asm__("vfmadd231ps %2, %1, %0" : "+v"(v) : "v"(a.v), "v"(b.v));
    sum.v = v;
}
PAGECLI_INLINE VecF max(VecF a, VecF b) { return {_mm512_max_ps(a.v, b.v)}; }
PAGECLI_INLINE VecF min(VecF a, VecF b) { return {_mm512_min_ps(a.v, b.v)}; }
PAGECLI_INLINE VecF sqrt(VecF v) { return {_mm512_sqrt_ps(v.v)}; }
PAGECLI_INLINE VecF select_less(VecF a, VecF b, VecF x, VecF y) {
    return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), y.v, x.v)};
}

PAGECLI_INLINE VecF select_bits(uint32_t n, VecF x, VecF y) {
    return {_mm512_mask_blend_ps(static_cast<__mmask16>(n), y.v, x.v)};
}

PAGECLI_INLINE VecF interleave_low(VecF a, VecF b) {
    const __m512i lanes = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    return {_mm512_permutex2var_ps(a.v, lanes, b.v)};
}
PAGECLI_INLINE VecF interleave_high(VecF a, VecF b) {
    const __m512i lanes = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    return {_mm512_permutex2var_ps(a.v, lanes, b.v)};
}

PAGECLI_INLINE VecI bits(VecF v) { return {_mm512_castps_si512(v.v)}; }
PAGECLI_INLINE VecF from_bits(VecI i) { return {_mm512_castsi512_ps(i.v)}; }
PAGECLI_INLINE VecI round_to_int(VecF v) { return {_mm512_cvtps_epi32(v.v)}; }
PAGECLI_INLINE VecF to_float(VecI i) { return {_mm512_cvtepi32_ps(i.v)}; }

PAGECLI_INLINE VecF load_bf16(const uint16_t* p) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16))};
}

PAGECLI_INLINE VecF load_f16(const uint16_t* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}

PAGECLI_INLINE VecF load_int8(const int8_t* p) {
    return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
}

// By integers, not vcvtneps2bf16: that one flushes denormals, and every instruction set shall store the same bits.
PAGECLI_INLINE void store_bf16(uint16_t* p, VecF v) {
    const __m512i u = _mm512_castps_si512(v.v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
    rounded = _mm512_mask_set1_epi32(rounded, _mm512_cmp_ps_mask(v.v, v.v, _CMP_UNORD_Q), 0x7fc0);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(rounded));
}

PAGECLI_INLINE float reduce_add(VecF v) {
    const __m256 h = _mm256_add_ps(_mm512_castps512_ps256(v.v), _mm512_extractf32x8_ps(v.v, 1));
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    s = _mm_add_ss(s, _mm_movehdup_ps(s));
    return _mm_cvtss_f32(s);
}

PAGECLI_INLINE float reduce_max(VecF v) {
    const __m256 h = _mm256_max_ps(_mm512_castps512_ps256(v.v), _mm512_extractf32x8_ps(v.v, 1));
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    s = _mm_max_ss(s, _mm_movehdup_ps(s));
    return _mm_cvtss_f32(s);
}

PAGECLI_INLINE VecI load_pairs(const uint16_t* p) { return {_mm512_loadu_si512(p)}; }

PAGECLI_INLINE VecI load_int8_pairs(const int8_t* p) {
    return {_mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
PAGECLI_INLINE void accumulate_int16(VecI& sum, VecI a, VecI b) {
    __m512i v = sum.v;
#if defined(__AVX512VNNI__)
    __asm__("vpdpwssd %2, %1, %0" : "+v"(v) : "v"(a.v), "v"(b.v));
#else
    __m512i products;
    __asm__("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+v"(v), "=&v"(products) : "v"(a.v), "v"(b.v));
#endif
    sum.v = v;
}

PAGECLI_INLINE VecI load_bytes(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
PAGECLI_INLINE void accumulate_bytes(VecI& sum, VecI a, VecI b) {
    __m512i v = sum.v;
#if defined(__AVX512VNNI__)
    __asm__("vpdpbusd %2, %1, %0" : "+v"(v) : "v"(a.v), "v"(b.v));
#else
    __m512i products;
    const __m512i ones = _mm512_set1_epi16(1);
    __asm__("vpmaddubsw %3, %2, %1\n\tvpmaddwd %4, %1, %1\n\tvpaddd %1, %0, %0"
            : "+v"(v), "=&v"(products)
            : "v"(a.v), "v"(b.v), "v"(ones));
#endif
    sum.v = v;
}

}  // namespace pagecli::PAGECLI_ISA
