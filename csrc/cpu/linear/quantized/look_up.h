// Sixteen numbers looked up by four bits, in registers, and floats rounded to bfloat16.
//   Table    load_table(p): 16 floats, each a signed byte times the same power of two; table.unit: what look_up's 1 stands for
//   Nibbles  nibbles_of(table, words): eight of each lane, ready to be
//   VecF     look_up<at>(table, nibbles): of each lane the number that its four bits from `at` on name
//   VecF     load_float8(p): 2^-8 times float8 numbers (e4m3, NaN aside), as halves have their bits
//   VecF     rounded_from(v): v / kRoundedFrom rounded to bfloat16, to nearest even; of weights, finite, below 2^80 and no denormals
//   VecI     round_to_pairs(even, odd): both rounded so, those of a lane side by side; denormals may become zeros
#pragma once

#include "isa/vec.h"

namespace pagecli::PAGECLI_ISA {

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)

struct Table {
    __m512 v;
    static constexpr float unit = 1.0f;
};
PAGECLI_INLINE Table load_table(const float* p) { return {_mm512_loadu_ps(p)}; }

using Nibbles = VecI;
PAGECLI_INLINE Nibbles nibbles_of(const Table&, VecI words) { return words; }
template <int at>
PAGECLI_INLINE VecF look_up(const Table& table, Nibbles words) {
    return {_mm512_permutexvar_ps(shift_right<at>(words).v, table.v)};
}

PAGECLI_INLINE VecF load_float8(const uint8_t* p) {
    const __m256i wide = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return {_mm512_cvtph_ps(_mm256_and_si256(_mm256_slli_epi16(wide, 7), _mm256_set1_epi16(static_cast<int16_t>(0xbf80))))};
}

#elif defined(__AVX2__) && defined(__FMA__)

// Bytes: two instructions look all of a lane up, where each of its floats would take five.
struct Table {
    __m256i bytes;
    float unit;
};
PAGECLI_INLINE Table load_table(const float* p) {
    const VecF lower = load(p), upper = load(p + 8);
    const VecI largest = bits(broadcast(reduce_max(max(abs(lower), abs(upper)))));
    const VecI power = largest & broadcast_int(0x7f800000);                   // of two: 64 then, or all are zeros
    const VecF times = from_bits(broadcast_int(static_cast<int32_t>((254u + 6) << 23)) - power);  // 64 / power
    const __m256i words = _mm256_packs_epi32(round_to_int(lower * times).v, round_to_int(upper * times).v);
    const __m256i ordered = _mm256_permute4x64_epi64(words, 0xd8);            // lanes of 128 bits are packed on their own
    const __m256i twice = _mm256_permute4x64_epi64(_mm256_packs_epi16(ordered, ordered), 0x88);
    return {twice, _mm256_cvtss_f32(from_bits(power).v) * 0x1p-30f};          // a byte is the upper one of 32 bits
}

struct Nibbles {
    __m256i even, odd;  // bytes: looked up are the lower four bits of each, and the upper four
};
PAGECLI_INLINE Nibbles nibbles_of(const Table& table, VecI words) {
    const __m256i lower = _mm256_set1_epi8(15);
    return {_mm256_shuffle_epi8(table.bytes, _mm256_and_si256(words.v, lower)),
            _mm256_shuffle_epi8(table.bytes, _mm256_and_si256(_mm256_srli_epi32(words.v, 4), lower))};
}
template <int at>
PAGECLI_INLINE VecF look_up(const Table&, const Nibbles& nibbles) {
    constexpr int kByte = at / 8;
    const VecI bytes = {at % 8 == 0 ? nibbles.even : nibbles.odd};
    if constexpr (kByte == 0) return to_float(shift_left<24>(bytes));
    if constexpr (kByte == 3) return to_float(bytes & broadcast_int(static_cast<int32_t>(0xff000000u)));
    constexpr int kLane = kByte << 24 | 0x00808080;
    const __m256i upper = _mm256_setr_epi32(kLane, kLane + 0x04000000, kLane + 0x08000000, kLane + 0x0c000000, kLane,
                                            kLane + 0x04000000, kLane + 0x08000000, kLane + 0x0c000000);
    return to_float({_mm256_shuffle_epi8(bytes.v, upper)});
}

PAGECLI_INLINE VecF load_float8(const uint8_t* p) {
    const __m128i wide = _mm_cvtepi8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
    return {_mm256_cvtph_ps(_mm_and_si128(_mm_slli_epi16(wide, 7), _mm_set1_epi16(static_cast<int16_t>(0xbf80))))};
}

#elif defined(PAGECLI_NEON)

struct Table {
    uint8x16x4_t v;
    static constexpr float unit = 1.0f;
};
PAGECLI_INLINE Table load_table(const float* p) { return {vld1q_u8_x4(reinterpret_cast<const uint8_t*>(p))}; }
PAGECLI_INLINE float32x4_t look_up(const Table& table, int32x4_t words) {
    const uint32x4_t number = vandq_u32(vreinterpretq_u32_s32(words), vdupq_n_u32(15));
    const uint32x4_t bytes = vmlaq_u32(vdupq_n_u32(0x03020100u), number, vdupq_n_u32(0x04040404u));
    return vreinterpretq_f32_u8(vqtbl4q_u8(table.v, vreinterpretq_u8_u32(bytes)));
}

using Nibbles = VecI;
PAGECLI_INLINE Nibbles nibbles_of(const Table&, VecI words) { return words; }
template <int at>
PAGECLI_INLINE VecF look_up(const Table& table, Nibbles words) {
    const VecI shifted = shift_right<at>(words);
    return {look_up(table, shifted.low), look_up(table, shifted.high)};
}

#else

struct Table {
    Floats v;
    static constexpr float unit = 1.0f;
};
PAGECLI_INLINE Table load_table(const float* p) { return {load(p).v}; }

using Nibbles = VecI;
PAGECLI_INLINE Nibbles nibbles_of(const Table&, VecI words) { return words; }
template <int at>
PAGECLI_INLINE VecF look_up(const Table& table, Nibbles words) {
    return {__builtin_shuffle(table.v, (shift_right<at>(words) & broadcast_int(15)).v)};
}

#endif

#if !defined(__AVX2__)

PAGECLI_INLINE VecF load_float8(const uint8_t* p) {
    uint16_t halves[VecF::width];
    for (int i = 0; i < VecF::width; ++i) halves[i] = static_cast<uint16_t>((p[i] & 0x80) << 8 | (p[i] & 0x7f) << 7);
    return load_f16(halves);
}

#endif

// v is -2^16 w: (1 - 2^16) w, rounded to 24 bits, ends where w's upper 8 bits end (one bit further down just above a power of two):
// 2^16 w added, w is rounded, ties as its own. Veltkamp's splitting (Dekker, 1971) but for the sign: (1 + 2^16) w can pass a power of
// two that w does not, and would then be rounded one bit too early.
constexpr float kRoundedFrom = -0x1p16f;
PAGECLI_INLINE VecF rounded_from(VecF v) { return v * broadcast(1.0f + 1.0f / kRoundedFrom) - v; }

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
