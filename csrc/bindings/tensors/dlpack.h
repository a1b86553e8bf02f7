// The part of DLPack's public ABI that the bindings read (version 1, https://dmlc.github.io/dlpack/latest/c_api.html): a
// tensor's description, and the table of C functions a tensor type publishes as __dlpack_c_exchange_api__.
#pragma once

#include <stdint.h>

namespace pagecli::dlpack {

constexpr uint32_t kMajorVersion = 1;
constexpr const char* kCapsuleName = "dlpack_exchange_api";

enum DeviceType : int32_t { kCPU = 1, kCUDA = 2 };
enum TypeCode : uint8_t { kInt = 0, kUInt = 1, kFloat = 2, kBfloat = 4 };

struct Tensor {
    void* data;
    DeviceType device_type;
    int32_t device_id;
    int32_t ndim;
    struct {
        uint8_t code, bits;
        uint16_t lanes;
    } dtype;
    int64_t* shape;
    int64_t* strides;  // in elements
    uint64_t byte_offset;
};

struct ExchangeTable {
    uint32_t major, minor;
    ExchangeTable* previous;
    void* managed_tensor_allocator;
    void* managed_tensor_from_py_object;
    void* managed_tensor_to_py_object;
    int (*tensor_from_py_object)(void* py_object, Tensor* out);  // lends the tensor; may be null; 0 or -1 with a Python error
    int (*current_work_stream)(DeviceType device_type, int32_t device_id, void** out);  // may be null; 0 or -1
};

}  // namespace pagecli::dlpack
