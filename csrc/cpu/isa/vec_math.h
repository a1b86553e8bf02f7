// exp, tanh, erf and a joint reduction on VecF. Polynomials: weighted minimax fits (Lawson) of the functions named beside them.
#pragma once

#include "vec.h"

namespace pagecli::PAGECLI_ISA {

// Horner: c[0] + c[1] x + ... ; `count` coefficients.
template <int count>
PAGECLI_INLINE VecF polynomial(VecF x, const float (&c)[count]) {
    VecF sum = broadcast(c[count - 1]);
    for (int i = count - 2; i >= 0; --i) sum = fmadd(sum, x, broadcast(c[i]));
    return sum;
}

// e^x within 1.5 ulp; 0 below -86.6 (-inf included), inf above 88.72, NaN stays NaN.
PAGECLI_INLINE VecF exp(VecF x) {
    constexpr float kLowest = -86.6f, kHighest = 88.72283f;  // 2^(n - 1) below stays a normal number
    constexpr float kCoefficients[] = {0.5f, 0.166665182f, 0.041666206f, 0.00836895406f,
                                       0.00139505998f};  // (e^r - 1 - r) / r^2
    const VecF clamped = max(broadcast(kLowest), min(broadcast(kHighest), x));
    const VecI n = round_to_int(clamped * broadcast(1.44269504f));
    const VecF whole = to_float(n);
    const VecF r = fmadd(whole, broadcast(2.12194440e-4f), fmadd(whole, broadcast(-0.693359375f), clamped));  // x - n ln 2
    const VecF power = fmadd(r * r, polynomial(r, kCoefficients), r) + broadcast(1.0f);
    const VecF result = (power + power) * exp2_int(n - broadcast_int(1));
    const VecF high = select_less(broadcast(kHighest), x, broadcast(__builtin_inff()), result);
    return select_less(x, broadcast(kLowest), zero(), high);
}

// e^x within 1.5 ulp for x <= 0; 0 below -86.6 (-inf included), NaN stays NaN. In fewer steps than exp: the sum with 1.5 * 2^23
// has the whole part in its low bits, and these go to the exponent.
PAGECLI_INLINE VecF exp_not_positive(VecF x) {
    constexpr float kLowest = -86.6f, kMagic = 12582912.0f;
    constexpr float kCoefficients[] = {0.5f, 0.166665182f, 0.041666206f, 0.00836895406f, 0.00139505998f};  // as exp's
    const VecF clamped = max(broadcast(kLowest), x);
    const VecF shifted = fmadd(clamped, broadcast(1.44269504f), broadcast(kMagic)), whole = shifted - broadcast(kMagic);
    const VecF r = fmadd(whole, broadcast(2.12194440e-4f), fmadd(whole, broadcast(-0.693359375f), clamped));  // x - n ln 2
    const VecF power = fmadd(r * r, polynomial(r, kCoefficients), r) + broadcast(1.0f);
    return select_less(x, broadcast(kLowest), zero(), from_bits(bits(power) + shift_left<23>(bits(shifted))));
}

PAGECLI_INLINE VecF tanh(VecF x) {
    constexpr float kCoefficients[] = {-0.333332837f, 0.133314908f, -0.0537434965f, 0.0206505787f, -0.00571703678f};
    const VecF size = abs(x), square = x * x;
    const VecF small = fmadd(size * square, polynomial(square, kCoefficients), size);  // below 0.625
    const VecF large = broadcast(1.0f) - broadcast(2.0f) / (exp(size + size) + broadcast(1.0f));
    return copy_sign(select_less(size, broadcast(0.625f), small, large), x);
}

// Absolute error below 1.2e-7.
PAGECLI_INLINE VecF erf(VecF x) {
    constexpr float kSmall[] = {1.12837911f,    -0.37612626f,     0.112836003f,  -0.0268544443f,
                                0.00518953521f, -0.000802084105f, 7.8891193e-05f};  // erf(x) / x in x^2, below 1
    constexpr float kLarge[] = {-0.000256436644f, -1.12742615f,    -0.637599945f,  -0.103566952f,
                                0.0220520291f,    -0.00299954903f, 0.000191505038f};  // ln(1 - erf(x)), 1 to 4
    const VecF size = min(broadcast(4.0f), abs(x)), square = size * size;
    const VecF small = size * polynomial(square, kSmall);
    const VecF large = broadcast(1.0f) - exp(polynomial(size, kLarge));
    return copy_sign(select_less(size, broadcast(1.0f), small, large), x);
}

// out[i] = the sum of v[i]'s lanes, each by the same fixed tree.
PAGECLI_INLINE void reduce_add_8(const VecF* v, float* out) {
#if defined(__AVX2__)
    __m256 halves[8];
    for (int i = 0; i < 8; ++i) {
#if defined(__AVX512F__)
        halves[i] = _mm256_add_ps(_mm512_castps512_ps256(v[i].v), _mm512_extractf32x8_ps(v[i].v, 1));
#else
        halves[i] = v[i].v;
#endif
    }
    const __m256 a = _mm256_hadd_ps(_mm256_hadd_ps(halves[0], halves[1]), _mm256_hadd_ps(halves[2], halves[3]));
    const __m256 b = _mm256_hadd_ps(_mm256_hadd_ps(halves[4], halves[5]), _mm256_hadd_ps(halves[6], halves[7]));
    _mm256_storeu_ps(out, _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31)));
#else
    for (int i = 0; i < 8; ++i) out[i] = reduce_add(v[i]);
#endif
}

}  // namespace pagecli::PAGECLI_ISA
