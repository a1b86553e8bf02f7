// CUDA's vocabulary for the host compiler: the words that csrc/cuda/device/platform.h takes from cuda_runtime.h and ptx.h, with the
// same meaning on the machine of machine.h. Numbers are converted and matrices multiplied as the PTX manual (ISA 9.0) says.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "machine.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__ __restrict
#define PAGECLI_SHARED_ARRAY(type, name, count) \
    static const char name##_key = 0;           \
    type* const name = static_cast<type*>(::simt::shared_array(&name##_key, sizeof(type) * (count)))
#define threadIdx (::simt::place.thread)
#define blockIdx (::simt::place.block)
#define blockDim (::simt::place.block_dim)
#define gridDim (::simt::place.grid_dim)

struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) int2 {
    int x, y;
};
using cudaStream_t = void*;

inline void __syncthreads(simt::Site file = __builtin_FILE(), int line = __builtin_LINE()) { simt::block_barrier(file, line); }

namespace simt {
inline void need_all_lanes(unsigned mask) {
    if (mask != 0xffffffffu) fail("a warp operation on part of a warp (mask %x) is not emulated", mask);
}
template <class T>
T exchange(T value, unsigned source, Site file, int line) {
    warp_meet(&value, sizeof value, false, file, line);
    T result;
    memcpy(&result, from_lane(source), sizeof result);
    return result;
}
}  // namespace simt

inline void __syncwarp(unsigned mask = 0xffffffffu, simt::Site file = __builtin_FILE(), int line = __builtin_LINE()) {
    simt::need_all_lanes(mask);
    simt::warp_meet(nullptr, 0, true, file, line);
}
template <class T>
T __shfl_sync(unsigned mask, T value, int source, simt::Site file = __builtin_FILE(), int line = __builtin_LINE()) {
    simt::need_all_lanes(mask);
    return simt::exchange(value, static_cast<unsigned>(source), file, line);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, simt::Site file = __builtin_FILE(), int line = __builtin_LINE()) {
    simt::need_all_lanes(mask);
    return simt::exchange(value, simt::lane() ^ static_cast<unsigned>(lanes), file, line);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned lanes, simt::Site file = __builtin_FILE(), int line = __builtin_LINE()) {
    simt::need_all_lanes(mask);
    return simt::exchange(value, simt::lane() >= lanes ? simt::lane() - lanes : simt::lane(), file, line);
}
inline unsigned __ballot_sync(unsigned mask, bool vote, simt::Site file = __builtin_FILE(), int line = __builtin_LINE()) {
    simt::need_all_lanes(mask);
    const char mine = vote;
    simt::warp_meet(&mine, 1, false, file, line);
    unsigned votes = 0;
    for (unsigned i = 0; i < simt::kWarpSize; ++i)
        votes |= static_cast<unsigned>(*static_cast<const char*>(simt::from_lane(i))) << i;
    return votes;
}
inline bool __any_sync(unsigned mask, bool vote, simt::Site file = __builtin_FILE(), int line = __builtin_LINE()) {
    return __ballot_sync(mask, vote, file, line) != 0;
}
inline bool __all_sync(unsigned mask, bool vote, simt::Site file = __builtin_FILE(), int line = __builtin_LINE()) {
    return __ballot_sync(mask, vote, file, line) == 0xffffffffu;
}

// Not instrumented: atomics of different threads are no race.
template <class T>
[[gnu::noinline, gnu::no_sanitize("thread")]] T atomicAdd(T* target, T value) {
    const T before = *target;
    *target = before + value;
    return before;
}

inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline unsigned __float_as_uint(float x) {
    unsigned bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
inline float __uint_as_float(unsigned bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
inline uint64_t __umul64hi(uint64_t a, uint64_t b) {
    return static_cast<uint64_t>(static_cast<unsigned __int128>(a) * b >> 64);
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }

namespace pagecli::cuda::ptx {

uint16_t bf16_bits(float x);  // round to nearest even
uint16_t fp16_bits(float x);
float fp16_value(uint16_t bits);
// d[16, 8] += a[16, 16] @ b[16, 8] over the lanes of a warp: mma.sync.aligned.m16n8k16.row.col.f32.{bf16,f16}
void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
void mma_fp16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
// ldmatrix.sync.aligned.m8n8.x4[.trans].shared.b16: lane i names row i % 8 of matrix i / 8
void load_matrices(uint32_t (&out)[4], const void* shared_row);
void load_matrices_transposed(uint32_t (&out)[4], const void* shared_row);

inline void copy_async_16(void* shared, const void* global, bool wanted = true) {
    ::simt::copy_async(shared, global, 16, wanted ? 16 : 0);
}
inline void commit_copies() { ::simt::commit_copies(); }
template <int kGroupsLeft>
void wait_for_copies() {
    ::simt::wait_for_copies(kGroupsLeft);
}
inline void* dynamic_shared() { return ::simt::dynamic_shared(); }

}  // namespace pagecli::cuda::ptx
