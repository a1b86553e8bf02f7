// Groups of 64 numbers multiplied by the Hadamard matrix of order 64 before they are quantized: what one large number would take
// of the 8 bits of the 63 beside it is spread over all. The matrix is orthogonal: rotated on both sides, products stay what they
// are. Source: Ashkboos et al., QuaRot: Outlier-Free 4-Bit Inference in Rotated LLMs, 2024, section 4.
#pragma once

#include "isa/quads.h"
#include "quantize.h"

namespace pagecli::PAGECLI_ISA {

constexpr float kRotationScale = 0.125f;  // of the normalized matrix: 1 / sqrt(64), exactly

constexpr int kRotatedVectors = static_cast<int>(kGroupK) / VecF::width;

// v = H v, H of entries 1 and -1 (Sylvester's): a fast Walsh-Hadamard transform. Each of its six stages takes sums and differences
// of the first and the second half and lays them down alternately, which no vector's width shows in: the same additions in the
// same order on every instruction set.
PAGECLI_INLINE void rotate_vectors(VecF (&v)[kRotatedVectors]) {
    constexpr int kHalf = kRotatedVectors / 2;
    PAGECLI_UNROLL
    for (int stage = 0; stage < 6; ++stage) {
        VecF next[kRotatedVectors];
        PAGECLI_UNROLL
        for (int i = 0; i < kHalf; ++i) {
            const VecF sum = v[i] + v[i + kHalf], difference = v[i] - v[i + kHalf];
            next[2 * i] = interleave_low(sum, difference);
            next[2 * i + 1] = interleave_high(sum, difference);
        }
        PAGECLI_UNROLL
        for (int i = 0; i < kRotatedVectors; ++i) v[i] = next[i];
    }
}

// values[64] = H values.
PAGECLI_INLINE void rotate_group(float* values) {
    VecF v[kRotatedVectors];
    PAGECLI_UNROLL
    for (int i = 0; i < kRotatedVectors; ++i) v[i] = load(values + i * VecF::width);
    rotate_vectors(v);
    PAGECLI_UNROLL
    for (int i = 0; i < kRotatedVectors; ++i) store(values + i * VecF::width, v[i]);
}

#if !defined(PAGECLI_ROTATES_IN_PLACE)
PAGECLI_INLINE void rotate_for_bytes(VecF (&v)[kRotatedVectors]) { rotate_vectors(v); }
#endif

#if !defined(PAGECLI_COMPARES_BITS)
// NaN: not all are finite.
PAGECLI_INLINE float largest_size(const VecF (&v)[kRotatedVectors]) {
    VecF largest = zero(), poison = zero();
    PAGECLI_UNROLL
    for (int i = 0; i < kRotatedVectors; ++i) {
        largest = max(abs(v[i]), largest);
        poison = fmadd(v[i], zero(), poison);
    }
    const float size = reduce_max(largest), not_finite = reduce_add(poison);
    return not_finite == 0.0f ? size : not_finite;
}
#endif

constexpr float kLargestByte = 127.0f;

// values[64], rotated, = about scale * q[64], q in [-127, 127]; returns the scale. As quantize_group, but that nothing leaves the
// registers: of what is not finite the scale is NaN, all q 0.
PAGECLI_INLINE float rotate_and_quantize(int8_t* q, const float* values) {
    VecF v[kRotatedVectors];
    PAGECLI_UNROLL
    for (int i = 0; i < kRotatedVectors; ++i) v[i] = load(values + i * VecF::width);
    rotate_for_bytes(v);
    const float size = largest_size(v);
    if (size != size) {
        memset(q, 0, kGroupK);
        return size;
    }
    const VecF inverse = broadcast(size > 1e-30f ? kLargestByte / size : 0.0f);
    VecI rounded[kRotatedVectors];
    PAGECLI_UNROLL
    for (int i = 0; i < kRotatedVectors; ++i) rounded[i] = round_to_int(v[i] * inverse);
    store_as_bytes(q, rounded);
    return size / kLargestByte * kRotationScale;
}

}  // namespace pagecli::PAGECLI_ISA
