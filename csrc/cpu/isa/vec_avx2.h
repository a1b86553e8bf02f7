// VecF on AVX2 + FMA: 8 floats. The contract is written in vec.h.
#pragma once

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

namespace pagecli::PAGECLI_ISA {

struct VecF {
    static constexpr int width = 8;
    __m256 v;
};
struct VecI {
    __m256i v;
};

PAGECLI_INLINE VecF zero() { return {_mm256_setzero_ps()}; }
PAGECLI_INLINE VecF broadcast(float x) { return {_mm256_set1_ps(x)}; }
PAGECLI_INLINE VecI broadcast_int(int32_t n) { return {_mm256_set1_epi32(n)}; }
PAGECLI_INLINE VecF load(const float* p) { return {_mm256_loadu_ps(p)}; }
PAGECLI_INLINE void store(float* p, VecF v) { _mm256_storeu_ps(p, v.v); }

PAGECLI_INLINE VecF load_partial(const float* p, int count) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return {_mm256_maskload_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lane))};
}

// Through memory: masked stores are microcoded on Zen 1 to 3.
PAGECLI_INLINE void store_partial(float* p, VecF v, int count) {
    float lanes[VecF::width];
    store(lanes, v);
    memcpy(p, lanes, static_cast<size_t>(count) * sizeof(float));
}

PAGECLI_INLINE VecI operator+(VecI a, VecI b) { return {_mm256_add_epi32(a.v, b.v)}; }
PAGECLI_INLINE VecI operator-(VecI a, VecI b) { return {_mm256_sub_epi32(a.v, b.v)}; }
PAGECLI_INLINE VecI operator&(VecI a, VecI b) { return {_mm256_and_si256(a.v, b.v)}; }
PAGECLI_INLINE VecI operator|(VecI a, VecI b) { return {_mm256_or_si256(a.v, b.v)}; }
PAGECLI_INLINE VecI operator^(VecI a, VecI b) { return {_mm256_xor_si256(a.v, b.v)}; }
template <int n>
PAGECLI_INLINE VecI shift_left(VecI a) {
    return {_mm256_slli_epi32(a.v, n)};
}
template <int n>
PAGECLI_INLINE VecI shift_right(VecI a) {
    return {_mm256_srli_epi32(a.v, n)};
}

PAGECLI_INLINE VecF operator+(VecF a, VecF b) { return {_mm256_add_ps(a.v, b.v)}; }
PAGECLI_INLINE VecF operator-(VecF a, VecF b) { return {_mm256_sub_ps(a.v, b.v)}; }
PAGECLI_INLINE VecF operator*(VecF a, VecF b) { return {_mm256_mul_ps(a.v, b.v)}; }
PAGECLI_INLINE VecF operator/(VecF a, VecF b) { return {_mm256_div_ps(a.v, b.v)}; }
PAGECLI_INLINE VecF fmadd(VecF a, VecF b, VecF c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
PAGECLI_INLINE void accumulate(VecF& sum, VecF a, VecF b) {
    __m256 v = sum.v;
    __asm__("vfmadd231ps %2, %1, %0" : "+x"(v) : "x"(a.v), "x"(b.v));
    sum.v = v;
}
PAGECLI_INLINE VecF max(VecF a, VecF b) { return {_mm256_max_ps(a.v, b.v)}; }
PAGECLI_INLINE VecF min(VecF a, VecF b) { return {_mm256_min_ps(a.v, b.v)}; }
PAGECLI_INLINE VecF sqrt(VecF v) { return {_mm256_sqrt_ps(v.v)}; }
PAGECLI_INLINE VecF select_less(VecF a, VecF b, VecF x, VecF y) {
    return {_mm256_blendv_ps(y.v, x.v, _mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ))};
}

PAGECLI_INLINE VecF select_bits(uint32_t n, VecF x, VecF y) {
    const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i set = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(static_cast<int>(n)), bit), bit);
    return {_mm256_blendv_ps(y.v, x.v, _mm256_castsi256_ps(set))};
}

PAGECLI_INLINE VecF interleave_low(VecF a, VecF b) {
    return {_mm256_permute2f128_ps(_mm256_unpacklo_ps(a.v, b.v), _mm256_unpackhi_ps(a.v, b.v), 0x20)};
}
PAGECLI_INLINE VecF interleave_high(VecF a, VecF b) {
    return {_mm256_permute2f128_ps(_mm256_unpacklo_ps(a.v, b.v), _mm256_unpackhi_ps(a.v, b.v), 0x31)};
}

PAGECLI_INLINE VecI bits(VecF v) { return {_mm256_castps_si256(v.v)}; }
PAGECLI_INLINE VecF from_bits(VecI i) { return {_mm256_castsi256_ps(i.v)}; }
PAGECLI_INLINE VecI round_to_int(VecF v) { return {_mm256_cvtps_epi32(v.v)}; }
PAGECLI_INLINE VecF to_float(VecI i) { return {_mm256_cvtepi32_ps(i.v)}; }

PAGECLI_INLINE VecF load_bf16(const uint16_t* p) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16))};
}

PAGECLI_INLINE VecF load_f16(const uint16_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}

PAGECLI_INLINE VecF load_int8(const int8_t* p) {
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))))};
}

PAGECLI_INLINE void store_bf16(uint16_t* p, VecF v) {
    const __m256i u = _mm256_castps_si256(v.v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
    const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(v.v, v.v, _CMP_UNORD_Q));
    rounded = _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc0), is_nan);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(rounded, rounded), 0xd8);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
}

PAGECLI_INLINE float reduce_add(VecF v) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v.v), _mm256_extractf128_ps(v.v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    s = _mm_add_ss(s, _mm_movehdup_ps(s));
    return _mm_cvtss_f32(s);
}

PAGECLI_INLINE float reduce_max(VecF v) {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(v.v), _mm256_extractf128_ps(v.v, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    s = _mm_max_ss(s, _mm_movehdup_ps(s));
    return _mm_cvtss_f32(s);
}

PAGECLI_INLINE VecI load_pairs(const uint16_t* p) { return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))}; }

PAGECLI_INLINE VecI load_int8_pairs(const int8_t* p) {
    return {_mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
PAGECLI_INLINE void accumulate_int16(VecI& sum, VecI a, VecI b) {
    __m256i v = sum.v, products;
    __asm__("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(v), "=&x"(products) : "x"(a.v), "x"(b.v));
    sum.v = v;
}

PAGECLI_INLINE VecI load_bytes(const uint8_t* p) { return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))}; }
PAGECLI_INLINE void accumulate_bytes(VecI& sum, VecI a, VecI b) {
    __m256i v = sum.v, products;
    const __m256i ones = _mm256_set1_epi16(1);
    __asm__("vpmaddubsw %3, %2, %1\n\tvpmaddwd %4, %1, %1\n\tvpaddd %1, %0, %0"
            : "+x"(v), "=&x"(products)
            : "x"(a.v), "x"(b.v), "x"(ones));
    sum.v = v;
}

}  // namespace pagecli::PAGECLI_ISA
