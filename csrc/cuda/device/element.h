// Elements of tensors, and eight of them at a time: the 16 bytes (32 of float32) that a thread loads and stores at once.
#pragma once

#include <stdint.h>

#include "pagecli/cuda/device.h"
#include "platform.h"

namespace pagecli::cuda {

struct BFloat16 {
    uint16_t bits;
};
struct Float16 {
    uint16_t bits;
};

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(BFloat16 x) { return __uint_as_float(static_cast<unsigned>(x.bits) << 16); }
__device__ inline float to_float(Float16 x) { return ptx::fp16_value(x.bits); }

template <class T>
__device__ T from_float(float x);
template <>
__device__ inline float from_float<float>(float x) {
    return x;
}
template <>
__device__ inline BFloat16 from_float<BFloat16>(float x) {
    return {ptx::bf16_bits(x)};
}
template <>
__device__ inline Float16 from_float<Float16>(float x) {
    return {ptx::fp16_bits(x)};
}

constexpr int kVec = 8;

template <class T>
struct alignas(16) Vec {
    T at[kVec];
};

template <class T>
__device__ inline Vec<T> load_vec(const T* from) {
    return *reinterpret_cast<const Vec<T>*>(from);
}
template <class T>
__device__ inline void store_vec(T* to, const Vec<T>& values) {
    *reinterpret_cast<Vec<T>*>(to) = values;
}

// kCount is a multiple of kVec.
template <class T, int kCount>
__device__ inline void load_floats(float (&out)[kCount], const T* from) {
#pragma unroll
    for (int first = 0; first < kCount; first += kVec) {
        const Vec<T> values = load_vec(from + first);
#pragma unroll
        for (int i = 0; i < kVec; ++i) out[first + i] = to_float(values.at[i]);
    }
}
template <class T, int kCount>
__device__ inline void store_floats(T* to, const float (&values)[kCount]) {
#pragma unroll
    for (int first = 0; first < kCount; first += kVec) {
        Vec<T> out;
#pragma unroll
        for (int i = 0; i < kVec; ++i) out.at[i] = from_float<T>(values[first + i]);
        store_vec(to + first, out);
    }
}

// Calls action(T()) with the element type that `type` names.
template <class Action>
void with_element_type(ElementType type, const Action& action) {
    switch (type) {
        case ElementType::float32:
            return action(float());
        case ElementType::bfloat16:
            return action(BFloat16());
        case ElementType::float16:
            return action(Float16());
    }
}

}  // namespace pagecli::cuda
