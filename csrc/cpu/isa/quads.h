// Products of bytes with sign, four a lane, exact, and what scales their sums: the same bits on every instruction set.
//   Quads  load_quads(p): 4 width bytes with sign in [-127, 127], four a lane, as accumulate_quads takes them
//   QuadX  load_quad_x(x): four bytes of x in each lane, from the cells_per_quad cells that lay_quad_x(cells, q) made of them, q being
//          a group's 64 bytes in [-127, 127]
//   void   accumulate_quads(sum, x, quads): sum += the sum of the products of each lane's four bytes, both with sign, and what depends
//          on x alone: a group's sum starts at start_of_quads(q), which takes it off
//   VecF   fused(a, b, c): a * b + c rounded once, on every instruction set
//   void   store_as_bytes(p, v): 64 numbers in [-128, 127], in the order that rotate_for_bytes (rotate.h) leaves, as bytes
#pragma once

#include "vec.h"

namespace pagecli::PAGECLI_ISA {

// Where the sum of a group's products starts whose other factors are `offset` too large.
PAGECLI_INLINE int32_t start_of_offset(const int8_t* q, int32_t offset) {
    int32_t sum = 0;
#if defined(__AVX512VNNI__)
    sum = _mm512_reduce_add_epi32(_mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1), _mm512_loadu_si512(q)));
#else
    for (int i = 0; i < 64; ++i) sum += q[i];
#endif
    return -offset * sum;
}

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)

#if defined(__AVX512VNNI__)
#define PAGECLI_OFFSETS_QUADS  // weights without sign, which vpdpbusd wants
struct Quads {
    __m512i v;
};
PAGECLI_INLINE Quads load_quads(const int8_t* p) { return {_mm512_xor_si512(_mm512_loadu_si512(p), _mm512_set1_epi8(-128))}; }
PAGECLI_INLINE void accumulate_quads(VecI& sum, VecI x, Quads quads) {
    __m512i v = sum.v;
    __asm__("vpdpbusd %2, %1, %0" : "+v"(v) : "v"(quads.v), "v"(x.v));
    sum.v = v;
}
#else
struct Quads {
    __m512i size;
    __mmask64 negative;
};
PAGECLI_INLINE Quads load_quads(const int8_t* p) {
    const __m512i v = _mm512_loadu_si512(p);
    return {_mm512_abs_epi8(v), _mm512_movepi8_mask(v)};
}
// Sizes times x with the weights' signs: two products of at most 127 * 127 are no more than 16 bits hold.
PAGECLI_INLINE void accumulate_quads(VecI& sum, VecI x, Quads quads) {
    const __m512i ones = _mm512_set1_epi16(1);
    __m512i v = sum.v, signed_x = _mm512_mask_sub_epi8(x.v, quads.negative, _mm512_setzero_si512(), x.v);
    __asm__("vpmaddubsw %1, %2, %1\n\tvpmaddwd %3, %1, %1\n\tvpaddd %1, %0, %0"
            : "+v"(v), "+v"(signed_x)
            : "v"(quads.size), "v"(ones));
    sum.v = v;
}
#endif
PAGECLI_INLINE VecF fused(VecF a, VecF b, VecF c) { return fmadd(a, b, c); }
// In one store, as what reads all 64 would wait for four.
PAGECLI_INLINE void store_as_bytes(int8_t* p, const VecI (&v)[4]) {
    const __m512i low = _mm512_packs_epi32(v[0].v, v[1].v), high = _mm512_packs_epi32(v[2].v, v[3].v);
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    _mm512_storeu_si512(p, _mm512_permutexvar_epi32(order, _mm512_packs_epi16(low, high)));
}
// As numbers without a sign bits are in the order of the floats, what is not finite above all of them.
#define PAGECLI_COMPARES_BITS
PAGECLI_INLINE float largest_size(const VecF (&v)[4]) {
    __m512i largest = _mm512_setzero_si512();
    PAGECLI_UNROLL
    for (int i = 0; i < 4; ++i) largest = _mm512_max_epu32(largest, _mm512_and_si512(bits(v[i]).v, _mm512_set1_epi32(0x7fffffff)));
    const uint32_t of_all = _mm512_reduce_max_epu32(largest);
    float size;
    memcpy(&size, &of_all, sizeof size);
    return size - size == 0.0f ? size : __builtin_nanf("");
}

#elif defined(__AVX2__) && defined(__FMA__)

#define PAGECLI_SPLITS_QUADS
constexpr int cells_per_quad = 2;
using Quads = VecI;
struct QuadX {
    __m256i size, negative;
};
PAGECLI_INLINE Quads load_quads(const int8_t* p) { return load_bytes(reinterpret_cast<const uint8_t*>(p)); }
PAGECLI_INLINE QuadX load_quad_x(const uint32_t* x) {
    return {broadcast_int(static_cast<int32_t>(x[0])).v, broadcast_int(static_cast<int32_t>(x[1])).v};
}
PAGECLI_INLINE void lay_quad_x(uint32_t* cells, const int8_t* q) {
    PAGECLI_UNROLL
    for (int i = 0; i < 2; ++i) {
        const __m256i v = load_quads(q + 32 * i).v, size = _mm256_abs_epi8(v), negative = _mm256_cmpgt_epi8(_mm256_setzero_si256(), v);
        const __m256i low = _mm256_unpacklo_epi32(size, negative), high = _mm256_unpackhi_epi32(size, negative);
        __m256i* to = reinterpret_cast<__m256i*>(cells + 16 * i);
        _mm256_storeu_si256(to, _mm256_permute2x128_si256(low, high, 0x20));
        _mm256_storeu_si256(to + 1, _mm256_permute2x128_si256(low, high, 0x31));
    }
}
// Sizes of x times the weights, whose bits are inverted where x is negative: -w - 1, and the 1 is a matter of x alone. Any of Zen 3's
// four pipes takes an exclusive or, vpsignb only those of vpmaddubsw: 131 -> 150 GOP/s a core. Two products of at most 127 * 128
// are no more than 16 bits hold.
PAGECLI_INLINE void accumulate_quads(VecI& sum, const QuadX& x, Quads quads) {
    __m256i v = sum.v, products;
    const __m256i ones = _mm256_set1_epi16(1);
    __asm__("vpxor %2, %4, %1\n\tvpmaddubsw %1, %3, %1\n\tvpmaddwd %5, %1, %1\n\tvpaddd %1, %0, %0"
            : "+x"(v), "=&x"(products)
            : "x"(x.negative), "x"(x.size), "x"(quads.v), "x"(ones));
    sum.v = v;
}
// The sum of the sizes of the negative ones.
PAGECLI_INLINE int32_t start_of_quads(const int8_t* q) {
    __m256i sums = _mm256_setzero_si256();
    PAGECLI_UNROLL
    for (int i = 0; i < 2; ++i) {
        const __m256i fallen = _mm256_max_epi8(_mm256_sub_epi8(_mm256_setzero_si256(), load_quads(q + 32 * i).v), _mm256_setzero_si256());
        sums = _mm256_add_epi64(sums, _mm256_sad_epu8(fallen, _mm256_setzero_si256()));
    }
    const __m128i halves = _mm_add_epi64(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
    return _mm_cvtsi128_si32(halves) + _mm_extract_epi32(halves, 2);
}
PAGECLI_INLINE VecF fused(VecF a, VecF b, VecF c) { return fmadd(a, b, c); }
// The transform of rotate_vectors (rotate.h), stage by stage, each where its numbers are: number [b5 b4 b3 b2 b1 b0] comes to lie in
// lane [b3 b1 b2] of vector [b5 b4 b0]. Half the instructions.
#define PAGECLI_ROTATES_IN_PLACE
PAGECLI_INLINE void sum_and_difference(VecF& a, VecF& b) {
    const VecF sum = a + b;
    b = a - b;
    a = sum;
}
PAGECLI_INLINE void rotate_for_bytes(VecF (&v)[8]) {
    PAGECLI_UNROLL
    for (int half = 4; half > 0; half /= 2) {
        PAGECLI_UNROLL
        for (int i = 0; i < 8; ++i)
            if ((i & half) == 0) sum_and_difference(v[i], v[i + half]);
    }
    PAGECLI_UNROLL
    for (int i = 0; i < 8; i += 2) {
        const auto regroup = [&](__m256 first, __m256 second) __attribute__((always_inline)) {
            v[i].v = first;
            v[i + 1].v = second;
            sum_and_difference(v[i], v[i + 1]);
        };
        regroup(_mm256_permute2f128_ps(v[i].v, v[i + 1].v, 0x20), _mm256_permute2f128_ps(v[i].v, v[i + 1].v, 0x31));
        regroup(_mm256_shuffle_ps(v[i].v, v[i + 1].v, 0x44), _mm256_shuffle_ps(v[i].v, v[i + 1].v, 0xee));
        regroup(_mm256_shuffle_ps(v[i].v, v[i + 1].v, 0x88), _mm256_shuffle_ps(v[i].v, v[i + 1].v, 0xdd));
    }
}
#define PAGECLI_COMPARES_BITS  // as with AVX-512
PAGECLI_INLINE float largest_size(const VecF (&v)[8]) {
    __m256i largest = _mm256_setzero_si256();
    PAGECLI_UNROLL
    for (int i = 0; i < 8; ++i) largest = _mm256_max_epu32(largest, _mm256_and_si256(bits(v[i]).v, _mm256_set1_epi32(0x7fffffff)));
    __m128i half = _mm_max_epu32(_mm256_castsi256_si128(largest), _mm256_extracti128_si256(largest, 1));
    half = _mm_max_epu32(half, _mm_shuffle_epi32(half, 0x4e));
    half = _mm_max_epu32(half, _mm_shuffle_epi32(half, 0xb1));
    const float size = _mm_cvtss_f32(_mm_castsi128_ps(half));
    return size - size == 0.0f ? size : __builtin_nanf("");
}
PAGECLI_INLINE void store_as_bytes(int8_t* p, const VecI (&v)[8]) {
    const __m256i order = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 2, 6, 1, 5, 3, 7, 8, 12, 10, 14, 9, 13, 11, 15));
    PAGECLI_UNROLL
    for (int i = 0; i < 2; ++i) {
        const __m256i low = _mm256_packs_epi32(v[4 * i].v, v[4 * i + 1].v), high = _mm256_packs_epi32(v[4 * i + 2].v, v[4 * i + 3].v);
        const __m256i bytes = _mm256_shuffle_epi8(_mm256_packs_epi16(low, high), order);  // [b3 b4 b2 b1 b0]
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p) + i, _mm256_permute4x64_epi64(bytes, 0xd8));
    }
}

#elif defined(PAGECLI_NEON)

using Quads = VecI;
PAGECLI_INLINE Quads load_quads(const int8_t* p) { return load_bytes(reinterpret_cast<const uint8_t*>(p)); }
PAGECLI_INLINE void accumulate_quads(VecI& sum, VecI x, Quads quads) {
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

using Quads = VecI;
PAGECLI_INLINE Quads load_quads(const int8_t* p) {
    VecI v;
    memcpy(&v.v, p, sizeof v.v);
    return v;
}
PAGECLI_INLINE void accumulate_quads(VecI& sum, VecI x, Quads quads) {
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

#if !defined(PAGECLI_SPLITS_QUADS)
constexpr int cells_per_quad = 1;
using QuadX = VecI;
PAGECLI_INLINE QuadX load_quad_x(const uint32_t* x) { return broadcast_int(static_cast<int32_t>(x[0])); }
PAGECLI_INLINE void lay_quad_x(uint32_t* cells, const int8_t* q) { memcpy(cells, q, 64); }
#if defined(PAGECLI_OFFSETS_QUADS)
PAGECLI_INLINE int32_t start_of_quads(const int8_t* q) { return start_of_offset(q, 128); }
#else
PAGECLI_INLINE int32_t start_of_quads(const int8_t*) { return 0; }
#endif
#endif

}  // namespace pagecli::PAGECLI_ISA
