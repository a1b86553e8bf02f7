// What every CUDA operation's arguments share. Operations queue their work on `stream` of the current device, allocate nothing
// and wait for nothing, so that a CUDA graph can record them. They throw DeviceError where a launch fails.
//
// Pointers are to device memory unless said otherwise, and rows begin at multiples of 16 bytes.
#pragma once

#include <stdint.h>

#include <stdexcept>

namespace pagecli::cuda {

enum class ElementType : int32_t { float32, bfloat16, float16 };

// What the KV cache holds: elements of the model's own type, or 8-bit floats (e4m3: 4 bits of exponent, 3 of mantissa, no
// infinity, largest 448), each times its cache's scale. The model's type is then bfloat16 or float16.
enum class CacheType : int32_t { model, e4m3 };
struct CacheScales {
    float k, v;  // above 0; 1 where the cache has the model's type
};

using Stream = void*;  // a cudaStream_t

struct DeviceError : std::runtime_error {
    using std::runtime_error::runtime_error;
};
[[noreturn]] void throw_device_error(const char* doing, const char* name, const char* explanation);

// The GPU's properties that the plans of attention need. Throws DeviceError where there is no usable GPU.
struct DeviceProperties {
    int32_t index, multiprocessors, compute_major, compute_minor;
    char name[256];
};
int num_devices();  // 0 without a driver
DeviceProperties current_device();

}  // namespace pagecli::cuda
