// Sixteen numbers looked up by four bits, in registers.
//   Table      load_table(p): 16 floats
//   VecF       look_up(table, words): of each lane the float that its lowest four bits name
//   PairTable  load_pair_table(p): 16 floats as bfloat16, which they are exact in
//   VecI       look_up_pairs(table, words): of each lane the pair that the lowest four bits of both its halves name
//   VecI       pairs_of_bytes(p): 2 width signed bytes as bfloat16, two a lane
//   void       store_pairs(p, even, odd): both rounded to bfloat16, those of a lane side by side; denormals may become zeros
#pragma once

#include "isa/vec.h"

namespace pagecli::PAGECLI_ISA {

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)

struct Table {
    __m512 v;
};
PAGECLI_INLINE Table load_table(const float* p) { return {_mm512_loadu_ps(p)}; }
PAGECLI_INLINE VecF look_up(const Table& table, VecI words) { return {_mm512_permutexvar_ps(words.v, table.v)}; }

#elif defined(__AVX2__) && defined(__FMA__)

struct Table {
    __m256 lower, upper;
};
PAGECLI_INLINE Table load_table(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
PAGECLI_INLINE VecF look_up(const Table& table, VecI words) {
    const __m256 fourth = _mm256_castsi256_ps(_mm256_slli_epi32(words.v, 28));  // as the sign, which chooses
    return {_mm256_blendv_ps(_mm256_permutevar8x32_ps(table.lower, words.v), _mm256_permutevar8x32_ps(table.upper, words.v), fourth)};
}

#else

struct Table {
    Floats v;
};
PAGECLI_INLINE Table load_table(const float* p) { return {load(p).v}; }
PAGECLI_INLINE VecF look_up(const Table& table, VecI words) { return {__builtin_shuffle(table.v, (words & broadcast_int(15)).v)}; }

#endif

#if defined(__AVX512BF16__)

PAGECLI_INLINE __m512i two_vectors_as_bf16(__m512 first, __m512 second) {
    __m512i both;
    __asm__("vcvtne2ps2bf16 %2, %1, %0" : "=v"(both) : "v"(second), "v"(first));
    return both;
}

struct PairTable {
    __m512i v;  // twice: the fifth bit of an index counts too
};
PAGECLI_INLINE PairTable load_pair_table(const float* p) {
    const __m512 table = _mm512_loadu_ps(p);
    return {two_vectors_as_bf16(table, table)};
}
PAGECLI_INLINE VecI look_up_pairs(const PairTable& table, VecI words) { return {_mm512_permutexvar_epi16(words.v, table.v)}; }

PAGECLI_INLINE VecI pairs_of_bytes(const int8_t* p) {
    return {two_vectors_as_bf16(load_int8(p).v, load_int8(p + VecF::width).v)};
}

PAGECLI_INLINE void store_pairs(uint16_t* p, VecF even, VecF odd) {
    const __m512i order = _mm512_add_epi32(_mm512_set1_epi32(0x00100000), _mm512_mullo_epi32(_mm512_set1_epi32(0x00010001),
        _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)));
    _mm512_storeu_si512(p, _mm512_permutexvar_epi16(order, two_vectors_as_bf16(even.v, odd.v)));
}

#else

// Of numbers that bfloat16 holds exactly.
PAGECLI_INLINE VecI pairs_of(VecF even, VecF odd) {
    return shift_right<16>(bits(even)) | (bits(odd) & broadcast_int(static_cast<int32_t>(0xffff0000u)));
}

using PairTable = Table;
PAGECLI_INLINE PairTable load_pair_table(const float* p) { return load_table(p); }
PAGECLI_INLINE VecI look_up_pairs(const PairTable& table, VecI words) {
    return pairs_of(look_up(table, words), look_up(table, shift_right<16>(words)));
}

PAGECLI_INLINE VecI pairs_of_bytes(const int8_t* p) {
    const VecI both = load_int8_pairs(p);
    const VecF inverse = broadcast(0x1p-16f);
    return pairs_of(to_float(shift_left<16>(both)) * inverse, to_float(both & broadcast_int(static_cast<int32_t>(0xffff0000u))) * inverse);
}

PAGECLI_INLINE void store_pairs(uint16_t* p, VecF even, VecF odd) {
    uint16_t halves[2][VecF::width];
    store_bf16(halves[0], even);
    store_bf16(halves[1], odd);
    for (int i = 0; i < 2 * VecF::width; ++i) p[i] = halves[i % 2][i / 2];
}

#endif

}  // namespace pagecli::PAGECLI_ISA
