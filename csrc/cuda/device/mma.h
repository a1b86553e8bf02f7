// Products of 16 x 16 by 16 x 8 on the tensor cores, of operands of 16 bits in shared memory; sums in float32.
//
// A row in shared memory is chunks of 16 bytes; chunk c of row r lies at c ^ (r % 8) (where a row has four, at c ^ (r / 2 % 4)),
// so that the eight rows of an ldmatrix meet eight different groups of banks.
#pragma once

#include "element.h"

namespace pagecli::cuda {

constexpr int kMmaRows = 16;  // of a warp's products

__device__ inline void multiply_add(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], BFloat16) {
    ptx::mma_bf16(d, a, b);
}
__device__ inline void multiply_add(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Float16) {
    ptx::mma_fp16(d, a, b);
}
template <class T>
__device__ inline uint32_t packed(float low, float high) {
    return from_float<T>(low).bits | static_cast<uint32_t>(from_float<T>(high).bits) << 16;
}

// Rows of chunks in shared memory.
template <class T, int kChunks>
struct Rows {
    T* memory;
    __device__ T* at(int row, int chunk) const {
        const int place = chunk ^ (kChunks >= 8 ? row & 7 : row >> 1 & 3);
        return memory + (row * kChunks + place) * (16 / static_cast<int>(sizeof(T)));
    }
};

// The first operand's 16 x 16 from rows [row, row + 16), columns from 16 * step on.
template <class T, int kChunks>
__device__ inline void load_a(uint32_t (&a)[4], const Rows<T, kChunks>& rows, int row, int step) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    ptx::load_matrices(a, rows.at(row + lane % 16, 2 * step + lane / 16));
}

// The second operand's 16 x 8, twice: rows [row, row + 16) of 16-bit elements as columns, their elements from 16 * step on. The
// first eight are b[0] and b[1].
template <class T, int kChunks>
__device__ inline void load_b(uint32_t (&b)[4], const Rows<T, kChunks>& rows, int row, int step) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    ptx::load_matrices(b, rows.at(row + lane / 16 * 8 + lane % 8, 2 * step + lane / 8 % 2));
}

}  // namespace pagecli::cuda
