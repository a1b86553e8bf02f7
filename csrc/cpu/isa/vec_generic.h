// VecF without instruction sets: 16 floats by the compiler's vector extension, so that the code written for AVX-512 runs (and
// is tested) everywhere. The contract is written in vec.h.
#pragma once

#include <stdint.h>
#include <string.h>

namespace pagecli::PAGECLI_ISA {

typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));
typedef uint32_t Uints __attribute__((vector_size(64)));
typedef int16_t Shorts __attribute__((vector_size(64)));
typedef uint16_t Ushorts __attribute__((vector_size(64)));
typedef int8_t Bytes __attribute__((vector_size(16)));
typedef uint16_t Halves __attribute__((vector_size(32)));

struct VecF {
    static constexpr int width = 16;
    Floats v;
};
struct VecI {
    Ints v;
};

PAGECLI_INLINE VecF broadcast(float x) { return {x - Floats{}}; }
PAGECLI_INLINE VecF zero() { return {Floats{}}; }
PAGECLI_INLINE VecI broadcast_int(int32_t n) { return {n - Ints{}}; }

PAGECLI_INLINE VecF load_partial(const float* p, int count) {
    VecF v = {};
    memcpy(&v.v, p, static_cast<size_t>(count) * sizeof(float));
    return v;
}

PAGECLI_INLINE VecF load(const float* p) {
    VecF v;
    memcpy(&v.v, p, sizeof v.v);
    return v;
}

PAGECLI_INLINE void store_partial(float* p, VecF v, int count) { memcpy(p, &v.v, static_cast<size_t>(count) * sizeof(float)); }
PAGECLI_INLINE void store(float* p, VecF v) { memcpy(p, &v.v, sizeof v.v); }

PAGECLI_INLINE VecI operator+(VecI a, VecI b) { return {a.v + b.v}; }
PAGECLI_INLINE VecI operator-(VecI a, VecI b) { return {a.v - b.v}; }
PAGECLI_INLINE VecI operator&(VecI a, VecI b) { return {a.v & b.v}; }
PAGECLI_INLINE VecI operator|(VecI a, VecI b) { return {a.v | b.v}; }
PAGECLI_INLINE VecI operator^(VecI a, VecI b) { return {a.v ^ b.v}; }
template <int n>
PAGECLI_INLINE VecI shift_left(VecI a) {
    return {(Ints)((Uints)a.v << n)};
}
template <int n>
PAGECLI_INLINE VecI shift_right(VecI a) {
    return {(Ints)((Uints)a.v >> n)};
}

PAGECLI_INLINE VecF operator+(VecF a, VecF b) { return {a.v + b.v}; }
PAGECLI_INLINE VecF operator-(VecF a, VecF b) { return {a.v - b.v}; }
PAGECLI_INLINE VecF operator*(VecF a, VecF b) { return {a.v * b.v}; }
PAGECLI_INLINE VecF operator/(VecF a, VecF b) { return {a.v / b.v}; }
PAGECLI_INLINE VecF fmadd(VecF a, VecF b, VecF c) { return {a.v * b.v + c.v}; }
PAGECLI_INLINE void accumulate(VecF& sum, VecF a, VecF b) { sum = fmadd(a, b, sum); }
PAGECLI_INLINE VecF max(VecF a, VecF b) { return {a.v > b.v ? a.v : b.v}; }
PAGECLI_INLINE VecF min(VecF a, VecF b) { return {a.v < b.v ? a.v : b.v}; }
PAGECLI_INLINE VecF select_less(VecF a, VecF b, VecF x, VecF y) { return {a.v < b.v ? x.v : y.v}; }

PAGECLI_INLINE VecF select_bits(uint32_t n, VecF x, VecF y) {
    const Ints bit = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768};
    return {(bit & static_cast<int32_t>(n)) != 0 ? x.v : y.v};
}

PAGECLI_INLINE VecF interleave_low(VecF a, VecF b) {
    return {__builtin_shuffle(a.v, b.v, (Ints){0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23})};
}
PAGECLI_INLINE VecF interleave_high(VecF a, VecF b) {
    return {__builtin_shuffle(a.v, b.v, (Ints){8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31})};
}

PAGECLI_INLINE VecF sqrt(VecF v) {
    for (int i = 0; i < VecF::width; ++i) v.v[i] = __builtin_sqrtf(v.v[i]);
    return v;
}

PAGECLI_INLINE VecI bits(VecF v) { return {(Ints)v.v}; }
PAGECLI_INLINE VecF from_bits(VecI i) { return {(Floats)i.v}; }
PAGECLI_INLINE VecF to_float(VecI i) { return {__builtin_convertvector(i.v, Floats)}; }

// Adding 1.5 * 2^23 leaves the rounded integer in the low mantissa bits; holds for |v| < 2^22.
PAGECLI_INLINE VecI round_to_int(VecF v) {
    const VecF magic = broadcast(12582912.0f);
    return bits(v + magic) - bits(magic);
}

PAGECLI_INLINE VecF load_bf16(const uint16_t* p) {
    Halves half;
    memcpy(&half, p, sizeof half);
    return {(Floats)(__builtin_convertvector(half, Uints) << 16)};
}

// A half's exponent and mantissa, as a float's, are 2^112 too small, denormals too; infinity and NaN get all exponent bits.
PAGECLI_INLINE VecF load_f16(const uint16_t* p) {
    Halves half;
    memcpy(&half, p, sizeof half);
    const Uints u = __builtin_convertvector(half, Uints);
    const Uints size = (u & 0x7fffu) << 13;
    const Uints scaled = (Uints)((Floats)size * 0x1p112f);
    const Uints value = size < 0x0f800000u ? scaled : size | 0x7f800000u;
    return {(Floats)(value | (u & 0x8000u) << 16)};
}

PAGECLI_INLINE VecF load_int8(const int8_t* p) {
    Bytes bytes;
    memcpy(&bytes, p, sizeof bytes);
    return {__builtin_convertvector(__builtin_convertvector(bytes, Ints), Floats)};
}

PAGECLI_INLINE void store_bf16(uint16_t* p, VecF v) {
    const Uints u = (Uints)v.v;
    const Uints rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    const Uints chosen = v.v != v.v ? 0x7fc0u - Uints{} : rounded;
    const Halves half = __builtin_convertvector(chosen, Halves);
    memcpy(p, &half, sizeof half);
}

PAGECLI_INLINE float reduce_add(VecF v) {
    for (int step = 8; step > 0; step /= 2)
        for (int i = 0; i < step; ++i) v.v[i] += v.v[i + step];
    return v.v[0];
}

PAGECLI_INLINE float reduce_max(VecF v) {
    for (int step = 8; step > 0; step /= 2)
        for (int i = 0; i < step; ++i) v.v[i] = v.v[i] > v.v[i + step] ? v.v[i] : v.v[i + step];
    return v.v[0];
}

PAGECLI_INLINE VecI load_pairs(const uint16_t* p) {
    VecI v;
    memcpy(&v.v, p, sizeof v.v);
    return v;
}

PAGECLI_INLINE VecI load_int8_pairs(const int8_t* p) {
    int16_t wide[2 * VecF::width];
    for (int i = 0; i < 2 * VecF::width; ++i) wide[i] = p[i];
    VecI v;
    memcpy(&v.v, wide, sizeof v.v);
    return v;
}
PAGECLI_INLINE void accumulate_int16(VecI& sum, VecI a, VecI b) {
    const Ints low_a = (Ints)((Uints)a.v << 16) >> 16, low_b = (Ints)((Uints)b.v << 16) >> 16;
    sum.v += low_a * low_b + (a.v >> 16) * (b.v >> 16);
}

PAGECLI_INLINE VecI load_bytes(const uint8_t* p) {
    VecI v;
    memcpy(&v.v, p, sizeof v.v);
    return v;
}
PAGECLI_INLINE void accumulate_bytes(VecI& sum, VecI a, VecI b) {
    const Uints bytes = (Uints)a.v;
    const Ints q = b.v;
    sum.v += (Ints)(bytes & 255u) * ((Ints)((Uints)q << 24) >> 24) + (Ints)(bytes >> 8 & 255u) * ((Ints)((Uints)q << 16) >> 24) +
             (Ints)(bytes >> 16 & 255u) * ((Ints)((Uints)q << 8) >> 24) + (Ints)(bytes >> 24) * (q >> 24);
}

}  // namespace pagecli::PAGECLI_ISA
