#include "device_tensor.h"

#include <cmath>

namespace pagecli {
namespace {

DType dtype_of(cuda::ElementType type) {
    switch (type) {
        case cuda::ElementType::float32:
            return DType::float32;
        case cuda::ElementType::bfloat16:
            return DType::bfloat16;
        case cuda::ElementType::float16:
            break;
    }
    return DType::float16;
}

void check_alignment(const TensorView& tensor, const char* name) {
    const int64_t element_bytes = tensor.dtype == DType::float32 ? 4 : tensor.dtype == DType::uint8 ? 1 : 2;
    bool aligned = reinterpret_cast<uintptr_t>(tensor.data) % 16 == 0;
    for (int i = 0; i + 1 < tensor.ndim; ++i) aligned &= tensor.shape[i] <= 1 || tensor.stride[i] * element_bytes % 16 == 0;
    if (!aligned) refuse("%s: expected rows that begin at multiples of 16 bytes", name);
}

}  // namespace

cuda::ElementType check_rows(const TensorView& tensor, const char* name, std::initializer_list<Dim> shape) {
    check(tensor, name, {DType::float32, DType::bfloat16, DType::float16}, shape);
    check_alignment(tensor, name);
    if (tensor.dtype == DType::float32) return cuda::ElementType::float32;
    return tensor.dtype == DType::bfloat16 ? cuda::ElementType::bfloat16 : cuda::ElementType::float16;
}

void check_rows(const TensorView& tensor, const char* name, cuda::ElementType type, std::initializer_list<Dim> shape) {
    check(tensor, name, dtype_of(type), shape);
    check_alignment(tensor, name);
}

cuda::CacheType check_caches(const TensorView& k_cache, const TensorView& v_cache, cuda::ElementType type,
                             cuda::CacheScales scales) {
    const bool narrow = k_cache.dtype == DType::uint8;
    const DType dtype = narrow ? DType::uint8 : dtype_of(type);
    check(k_cache, "k_cache", dtype, {"num_blocks", "kv_heads", "block_size", "head_dim"});
    check(v_cache, "v_cache", dtype, {k_cache.shape[0], k_cache.shape[1], k_cache.shape[2], k_cache.shape[3]});
    check_contiguous(k_cache, "k_cache");
    check_contiguous(v_cache, "v_cache");
    check_multiple("head_dim", k_cache.shape[3], narrow ? 16 : 8, INT32_MAX);
    check_alignment(k_cache, "k_cache");
    check_alignment(v_cache, "v_cache");
    for (const float scale : {scales.k, scales.v}) {
        if (!(scale > 0 && std::isfinite(scale)) || (!narrow && scale != 1.0f))
            refuse("k_scale and v_scale: expected a number above 0, and 1 where the cache is not e4m3, got %g", scale);
    }
    if (narrow && type == cuda::ElementType::float32) refuse("k_cache: e4m3 goes with bfloat16 and float16, not with float32");
    return narrow ? cuda::CacheType::e4m3 : cuda::CacheType::model;
}

void check_vector(const TensorView& tensor, const char* name, int64_t size) {
    check(tensor, name, DType::float32, {size});
    check_alignment(tensor, name);
}

void check_multiple(const char* name, int64_t value, int64_t divisor, int64_t most) {
    if (value < divisor || value > most || value % divisor != 0)
        refuse("%s: expected a multiple of %lld up to %lld, got %lld", name, static_cast<long long>(divisor),
               static_cast<long long>(most), static_cast<long long>(value));
}

cuda::Stream stream_of(const TensorView& tensor) {
    void* stream = nullptr;
    if (kTensorDevice == dlpack::kCPU) return stream;  // emulated
    const dlpack::ExchangeTable* table = exchange_table(Py_TYPE(tensor.object));
    if (table == nullptr || table->current_work_stream == nullptr ||
        table->current_work_stream(kTensorDevice, tensor.device_id, &stream) != 0) {
        PyErr_Clear();
        refuse("torch does not say which CUDA stream is current; torch 2.10 or later does");
    }
    return stream;
}

}  // namespace pagecli
