// VecF: the register of floats every CPU kernel is written with. Each kernel file is compiled once per instruction set with
// -DPAGECLI_ISA=generic|avx2|avx512|avx512bf16|amx|neon|neon_bf16 and lives in namespace pagecli::PAGECLI_ISA, so that no symbol
// compiled for one instruction set can be handed to another by the linker (NEON's also with -DPAGECLI_NEON). Compile with -ffp-contract=off (fmadd() alone decides what is fused)
// and -Wno-psabi (generic vectors are wider than its registers; everything that takes one is inlined).
//
// What each vec_<isa>.h defines, all for VecF::width lanes (`p` needs no alignment; count is in [0, width]):
//   VecF   zero() broadcast(x) load(p) load_partial(p, count)  store(p, v) store_partial(p, v, count): float, absent lanes 0
//   VecI   broadcast_int(n); + and - ; shift_left<n>(v), shift_right<n>(v) (logical); operators & | ^
//   VecF   + - * / (operators), fmadd(a, b, c) = a * b + c, max(a, b), min(a, b) (b where either is NaN), sqrt(v)
//   void   accumulate(sum, a, b): sum = fmadd(a, b, sum) in the register it is in; compilers left alone move and spill the many
//          sums of a matrix tile
//   VecF   select_less(a, b, x, y): x where a < b, else y (also where NaN)
//   VecF   select_bits(n, x, y): lane i of x where bit i of n is set, else of y
//   VecF   interleave_low(a, b), interleave_high(a, b): a[0], b[0], a[1], ... of the lower and of the upper half of the lanes
//   VecI   bits(v), round_to_int(v) (nearest even); VecF from_bits(i), to_float(i)
//   VecF   load_bf16(p); store_bf16(p, v): uint16_t memory, rounded to nearest even, NaN stays NaN; load_f16(p): IEEE half
//   VecF   load_int8(p): int8_t memory
//   float  reduce_add(v), reduce_max(v): a fixed tree, the same for every call
//   VecI   load_pairs(p): width (even k, odd k) pairs of bfloat16 of a packed weight
//   VecI   load_int8_pairs(p): 2 width signed bytes, each lane two of them as 16-bit numbers
//   void   accumulate_int16(sum, a, b): sum += the sum of the products of each lane's two 16-bit numbers; as accumulate, so
//          that no compiler multiplies first and spills
//   VecI   load_bytes(p): 4 width bytes, four a lane
//   void   accumulate_bytes(sum, a, b): sum += the sum of the products of each lane's four bytes, those of a without sign, of b
//          with; no two neighbours' products may come to more than 16 bits with sign hold
// and vec.h below, on top of them: the partial bfloat16 accesses, 2^n, abs, copy_sign, widening and dot products of pairs.
#pragma once

#include <stdint.h>
#include <string.h>

#ifndef PAGECLI_ISA
#error "compile with -DPAGECLI_ISA=generic|avx2|avx512|avx512bf16|amx|neon|neon_bf16"
#endif

#define PAGECLI_INLINE [[gnu::always_inline]] static inline

// Small loops over a tile are unrolled whatever -O says: only then do its sums live in registers.
#define PAGECLI_UNROLL _Pragma("GCC unroll 16")

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#include "vec_avx512.h"
#elif defined(__AVX2__) && defined(__FMA__)
#include "vec_avx2.h"
#elif defined(PAGECLI_NEON)
#include "vec_neon.h"
#else
#include "vec_generic.h"
#endif

namespace pagecli::PAGECLI_ISA {

// `pointer`, of which the compiler knows nothing any more: it cannot move reads through it to an earlier place.
template <class T>
PAGECLI_INLINE const T* opaque(const T* pointer) {
    __asm__ volatile("" : "+r"(pointer));
    return pointer;
}

PAGECLI_INLINE int min_int(int a, int b) { return a < b ? a : b; }
PAGECLI_INLINE int max_int(int a, int b) { return a < b ? b : a; }

PAGECLI_INLINE VecF load_bf16_partial(const uint16_t* p, int count) {
    uint16_t lanes[VecF::width] = {};
    memcpy(lanes, p, static_cast<size_t>(count) * sizeof(uint16_t));
    return load_bf16(lanes);
}

PAGECLI_INLINE void store_bf16_partial(uint16_t* p, VecF v, int count) {
    uint16_t lanes[VecF::width];
    store_bf16(lanes, v);
    memcpy(p, lanes, static_cast<size_t>(count) * sizeof(uint16_t));
}

PAGECLI_INLINE VecF load_int8_partial(const int8_t* p, int count) {
    int8_t lanes[VecF::width] = {};
    memcpy(lanes, p, static_cast<size_t>(count));
    return load_int8(lanes);
}

// 2^n for n in [-126, 127], made from the exponent bits.
PAGECLI_INLINE VecF exp2_int(VecI n) { return from_bits(shift_left<23>(n + broadcast_int(127))); }

PAGECLI_INLINE VecF abs(VecF v) { return from_bits(bits(v) & broadcast_int(0x7fffffff)); }

// `magnitude` (not negative) with the sign of `sign`.
PAGECLI_INLINE VecF copy_sign(VecF magnitude, VecF sign) {
    return from_bits(bits(magnitude) | (bits(sign) & broadcast_int(static_cast<int32_t>(0x80000000u))));
}

// The two bfloat16 of each pair as floats: even k (low half), odd k (high half).
PAGECLI_INLINE VecF widen_low(VecI pairs) { return from_bits(shift_left<16>(pairs)); }
PAGECLI_INLINE VecF widen_high(VecI pairs) { return from_bits(pairs & broadcast_int(static_cast<int32_t>(0xffff0000u))); }

// float x -> bfloat16 bits, nearest even, NaN -> quiet NaN; the scalar twin of store_bf16.
PAGECLI_INLINE uint16_t round_to_bf16(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    if ((u & 0x7fffffffu) > 0x7f800000u) return 0x7fc0;
    return static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

PAGECLI_INLINE float widen_bf16(uint16_t x) {
    const uint32_t u = static_cast<uint32_t>(x) << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

// accumulate_pairs(sum, a, w): sum += a.odd * w.odd, then sum += a.even * w.even, for bfloat16 pairs a and w (bfdot adds the two
// products first, each sum rounded to odd, and takes denormals for zero). Where pairs_can_be_widened, multiply-adds of floats give the
// same, with denormals taken for zeros as vdpbf16ps takes them. Where
// has_pair_dot is false the matrix kernel keeps float activations and uses widen_low / widen_high with accumulate instead.
#if defined(__AVX512BF16__)
constexpr bool has_pair_dot = true, pairs_can_be_widened = true;
PAGECLI_INLINE void accumulate_pairs(VecF& sum, VecI a, VecI w) {
    __m512 v = sum.v;
    __asm__("vdpbf16ps %2, %1, %0" : "+v"(v) : "v"(w.v), "v"(a.v));
    sum.v = v;
}
#elif defined(PAGECLI_NEON) && defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
constexpr bool has_pair_dot = true, pairs_can_be_widened = false;
PAGECLI_INLINE float32x4_t with_pair_products(float32x4_t sum, int32x4_t a, int32x4_t w) {
    return vbfdotq_f32(sum, vreinterpretq_bf16_s32(a), vreinterpretq_bf16_s32(w));
}
PAGECLI_INLINE void accumulate_pairs(VecF& sum, VecI a, VecI w) {
    sum = {with_pair_products(sum.low, a.low, w.low), with_pair_products(sum.high, a.high, w.high)};
}
#else
#if defined(PAGECLI_EMULATE_PAIR_DOT)  // tests only: the path of vdpbf16ps on machines without it
constexpr bool has_pair_dot = true, pairs_can_be_widened = true;
#else
constexpr bool has_pair_dot = false, pairs_can_be_widened = false;
#endif
PAGECLI_INLINE void accumulate_pairs(VecF& sum, VecI a, VecI w) {
    accumulate(sum, widen_high(a), widen_high(w));  // products of two bfloat16 are exact in float: fused or not is the same
    accumulate(sum, widen_low(a), widen_low(w));
}
#endif

}  // namespace pagecli::PAGECLI_ISA
