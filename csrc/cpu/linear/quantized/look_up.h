// Sixteen floats looked up by four bits, in registers, and floats rounded to pairs of bfloat16.
//   Table  load_table(p): 16 floats
//   VecF   look_up(table, words): of each lane the float that its lowest four bits name
//   VecF   load_float8(p): 2^-8 times float8 numbers (e4m3, NaN aside), as halves have their bits
//   VecF   rounded(v): v rounded to bfloat16, to nearest even; of weights, which are finite, below 2^100 and no denormals
//   VecI   round_to_pairs(even, odd): both rounded so, those of a lane side by side; denormals may become zeros
#pragma once

#include "isa/vec.h"

namespace pagecli::PAGECLI_ISA {

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)

struct Table {
    __m512 v;
};
PAGECLI_INLINE Table load_table(const float* p) { return {_mm512_loadu_ps(p)}; }
PAGECLI_INLINE VecF look_up(const Table& table, VecI words) { return {_mm512_permutexvar_ps(words.v, table.v)}; }

PAGECLI_INLINE VecF load_float8(const uint8_t* p) {
    const __m256i wide = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return {_mm512_cvtph_ps(_mm256_and_si256(_mm256_slli_epi16(wide, 7), _mm256_set1_epi16(static_cast<int16_t>(0xbf80))))};
}

#elif defined(__AVX2__) && defined(__FMA__)

struct Table {
    __m256 lower, upper;
};
PAGECLI_INLINE Table load_table(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
PAGECLI_INLINE VecF look_up(const Table& table, VecI words) {
    const __m256 fourth = _mm256_castsi256_ps(_mm256_slli_epi32(words.v, 28));  // as the sign, which chooses
    return {_mm256_blendv_ps(_mm256_permutevar8x32_ps(table.lower, words.v), _mm256_permutevar8x32_ps(table.upper, words.v), fourth)};
}

PAGECLI_INLINE VecF load_float8(const uint8_t* p) {
    const __m128i wide = _mm_cvtepi8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
    return {_mm256_cvtph_ps(_mm_and_si128(_mm_slli_epi16(wide, 7), _mm_set1_epi16(static_cast<int16_t>(0xbf80))))};
}

#elif defined(PAGECLI_NEON)

struct Table {
    uint8x16x4_t v;
};
PAGECLI_INLINE Table load_table(const float* p) { return {vld1q_u8_x4(reinterpret_cast<const uint8_t*>(p))}; }
PAGECLI_INLINE float32x4_t look_up(const Table& table, int32x4_t words) {
    const uint32x4_t number = vandq_u32(vreinterpretq_u32_s32(words), vdupq_n_u32(15));
    const uint32x4_t bytes = vmlaq_u32(vdupq_n_u32(0x03020100u), number, vdupq_n_u32(0x04040404u));
    return vreinterpretq_f32_u8(vqtbl4q_u8(table.v, vreinterpretq_u8_u32(bytes)));
}
PAGECLI_INLINE VecF look_up(const Table& table, VecI words) { return {look_up(table, words.low), look_up(table, words.high)}; }

#else

struct Table {
    Floats v;
};
PAGECLI_INLINE Table load_table(const float* p) { return {load(p).v}; }
PAGECLI_INLINE VecF look_up(const Table& table, VecI words) { return {__builtin_shuffle(table.v, (words & broadcast_int(15)).v)}; }

#endif

#if !defined(__AVX2__)

PAGECLI_INLINE VecF load_float8(const uint8_t* p) {
    uint16_t halves[VecF::width];
    for (int i = 0; i < VecF::width; ++i) halves[i] = static_cast<uint16_t>((p[i] & 0x80) << 8 | (p[i] & 0x7f) << 7);
    return load_f16(halves);
}

#endif

// (1 - 2^16) v, which is rounded to 24 bits, ends where v's upper 8 bits end (one bit further down just above a power of two): 2^16 v
// added, v is rounded, ties as its own. Veltkamp's splitting (Dekker, 1971) but for the sign: (1 + 2^16) v can pass a power of two that
// v does not, and would then be rounded one bit too early.
PAGECLI_INLINE VecF rounded(VecF v) {
    const VecF shifted = fmadd(v, broadcast(-0x1p16f), v);
    return fmadd(v, broadcast(0x1p16f), shifted);
}

#if defined(__AVX512BF16__)

PAGECLI_INLINE VecI round_to_pairs(VecF even, VecF odd) {
    const __m512i order = _mm512_add_epi32(_mm512_set1_epi32(0x00100000), _mm512_mullo_epi32(_mm512_set1_epi32(0x00010001),
        _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)));
    __m512i both;
    __asm__("vcvtne2ps2bf16 %2, %1, %0" : "=v"(both) : "v"(odd.v), "v"(even.v));
    return {_mm512_permutexvar_epi16(order, both)};
}

#else

// Rounded in a float's bits, its lower half not cleared.
PAGECLI_INLINE VecI rounded_bits(VecF v) {
    return bits(v) + (shift_right<16>(bits(v)) & broadcast_int(1)) + broadcast_int(0x7fff);
}

PAGECLI_INLINE VecI round_to_pairs(VecF even, VecF odd) {
    return shift_right<16>(rounded_bits(even)) | (rounded_bits(odd) & broadcast_int(static_cast<int32_t>(0xffff0000u)));
}

#endif

}  // namespace pagecli::PAGECLI_ISA
