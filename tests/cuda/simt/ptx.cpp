// The tensor core's and the converters' instructions, lane by lane: fragment layouts as in the PTX manual, sections "Matrix
// fragments for mma.m16n8k16 with floating point type" and "ldmatrix".
#include "device.h"

namespace pagecli::cuda::ptx {
namespace {

float bf16_value(uint16_t bits) { return __uint_as_float(static_cast<unsigned>(bits) << 16); }

// What a lane brings: its elements of A and B, by register and half. Lane 4 * (row % 8) + (k % 8) / 2 holds a[row][k] in register
// row / 8 + 2 * (k / 8), lane 4 * column + (k % 8) / 2 holds b[k][column] in register k / 8, both in half k % 2.
struct Operands {
    float a[4][2], b[2][2];
};

const Operands* operands_of(unsigned lane) { return static_cast<const Operands*>(simt::from_lane(lane)); }

template <float (*kValue)(uint16_t)>
void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    Operands mine;
    for (unsigned half = 0; half < 2; ++half) {
        for (unsigned i = 0; i < 4; ++i) mine.a[i][half] = kValue(static_cast<uint16_t>(a[i] >> 16 * half));
        for (unsigned i = 0; i < 2; ++i) mine.b[i][half] = kValue(static_cast<uint16_t>(b[i] >> 16 * half));
    }
    simt::warp_meet(&mine, sizeof mine, false, "mma", 0);
    const unsigned lane = simt::lane();
    const Operands *rows[4], *columns[2][4];
    for (unsigned j = 0; j < 4; ++j) {
        rows[j] = operands_of(lane / 4 * 4 + j);
        for (unsigned c = 0; c < 2; ++c) columns[c][j] = operands_of(4 * (2 * (lane % 4) + c) + j);
    }
    for (unsigned i = 0; i < 4; ++i) {  // d[i] is row lane / 4 + 8 * (i / 2), column 2 * (lane % 4) + i % 2
        float sum = d[i];
        for (unsigned k = 0; k < 16; ++k)
            sum += rows[k % 8 / 2]->a[i / 2 + 2 * (k / 8)][k % 2] * columns[i % 2][k % 8 / 2]->b[k / 8][k % 2];
        d[i] = sum;
    }
}

const uint16_t* matrix_row(unsigned matrix, unsigned row) {
    const void* address;
    memcpy(&address, simt::from_lane(8 * matrix + row), sizeof address);
    return static_cast<const uint16_t*>(address);
}

void meet_with_row(const void* shared_row) {
    if (reinterpret_cast<uintptr_t>(shared_row) % 16 != 0) simt::fail("ldmatrix: a row's address is not a multiple of 16");
    simt::warp_meet(&shared_row, sizeof shared_row, false, "ldmatrix", 0);
}

}  // namespace

uint16_t bf16_bits(float x) {
    const unsigned bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

uint16_t fp16_bits(float x) {
    const unsigned bits = __float_as_uint(x), sign = bits >> 16 & 0x8000u;
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    const float magnitude = fabsf(x);
    if (magnitude == 0.0f) return static_cast<uint16_t>(sign);
    if (magnitude >= 65520.0f) return static_cast<uint16_t>(sign | 0x7c00u);
    int exponent = 0;
    frexpf(magnitude, &exponent);                          // magnitude = m * 2^exponent, m in [0.5, 1)
    const int ulp = exponent < -13 ? -24 : exponent - 11;  // of a half this large
    const auto steps = static_cast<unsigned>(nearbyintf(ldexpf(magnitude, -ulp)));
    const unsigned biased = exponent < -13 ? steps : (static_cast<unsigned>(exponent + 13) << 10) + steps;
    return static_cast<uint16_t>(sign | biased);
}

float fp16_value(uint16_t bits) {
    const unsigned exponent = bits >> 10 & 31u, fraction = bits & 1023u;
    float magnitude = __uint_as_float((bits & 0x7fffu) << 13) * 0x1p112f;  // exact, denormals too
    if (exponent == 31) magnitude = fraction == 0 ? INFINITY : NAN;
    return bits & 0x8000u ? -magnitude : magnitude;
}

void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { multiply<bf16_value>(d, a, b); }
void mma_fp16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { multiply<fp16_value>(d, a, b); }

// Register m of lane i: row i / 4 of matrix m, columns 2 * (i % 4) and the next.
void load_matrices(uint32_t (&out)[4], const void* shared_row) {
    meet_with_row(shared_row);
    const unsigned lane = simt::lane();
    for (unsigned m = 0; m < 4; ++m) {
        const uint16_t* row = matrix_row(m, lane / 4) + 2 * (lane % 4);
        simt::note_read(row, 4);
        out[m] = row[0] | static_cast<uint32_t>(row[1]) << 16;
    }
}

// The same of the transposed matrix: rows 2 * (i % 4) and the next, column i / 4.
void load_matrices_transposed(uint32_t (&out)[4], const void* shared_row) {
    meet_with_row(shared_row);
    const unsigned lane = simt::lane();
    for (unsigned m = 0; m < 4; ++m) {
        const uint16_t *first = matrix_row(m, 2 * (lane % 4)) + lane / 4,
                       *second = matrix_row(m, 2 * (lane % 4) + 1) + lane / 4;
        simt::note_read(first, 2);
        simt::note_read(second, 2);
        out[m] = *first | static_cast<uint32_t>(*second) << 16;
    }
}

}  // namespace pagecli::cuda::ptx
