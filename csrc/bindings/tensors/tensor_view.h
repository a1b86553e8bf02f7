// TensorView: what the kernels need of a tensor argument: of a numpy array, by the buffer protocol, or of a torch tensor, by
// DLPack's exchange table; neither makes a Python call.
// Converting never fails: what is wrong with an argument is kept in `problem`, and check() says it with the argument's name.
#pragma once

#include <nanobind/nanobind.h>

#include "dlpack.h"

namespace pagecli {

// Where this module's tensors lie; tensor_view.cpp and check.cpp are compiled once for each module.
#if defined(PAGECLI_TENSORS_ON_CUDA)
constexpr dlpack::DeviceType kTensorDevice = dlpack::kCUDA;
constexpr const char* kTensorPlace = "the GPU";
#else
constexpr dlpack::DeviceType kTensorDevice = dlpack::kCPU;
constexpr const char* kTensorPlace = "the CPU";
#endif

enum class DType { float32, bfloat16, float16, int8, int32, int64, uint8, other };

struct TensorView {
    static constexpr int kMaxDims = 4;
    enum class Problem { none, is_none, not_a_tensor, not_exportable, elsewhere, too_many_dims };

    void* data = nullptr;
    DType dtype = DType::other;
    int ndim = 0;
    int32_t device_id = 0;
    int64_t shape[kMaxDims] = {}, stride[kMaxDims] = {};
    Problem problem = Problem::is_none;
    PyObject* object = nullptr;  // borrowed, for messages

    bool given() const { return problem != Problem::is_none; }
    template <class T>
    T* as() const {
        return static_cast<T*>(data);
    }
};

// The table of `type`, or null where it has none this code understands. Call with the GIL.
const dlpack::ExchangeTable* exchange_table(PyTypeObject* type);

// Fills `view` from any Python object.
void read_tensor(PyObject* object, TensorView& view);

}  // namespace pagecli

namespace nanobind::detail {

template <>
struct type_caster<pagecli::TensorView> {
    NB_TYPE_CASTER(pagecli::TensorView, const_name("numpy.ndarray | torch.Tensor | None"))

    bool from_python(handle source, uint8_t, cleanup_list*) noexcept {
        pagecli::read_tensor(source.ptr(), value);
        return true;
    }
};

}  // namespace nanobind::detail
