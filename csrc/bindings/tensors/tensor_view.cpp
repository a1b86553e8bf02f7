#include "tensor_view.h"

namespace pagecli {
namespace {

const dlpack::ExchangeTable* find_table(PyObject* type) {
    PyObject* capsule = PyObject_GetAttrString(type, "__dlpack_c_exchange_api__");
    void* pointer = capsule != nullptr ? PyCapsule_GetPointer(capsule, dlpack::kCapsuleName) : nullptr;
    Py_XDECREF(capsule);
    PyErr_Clear();
    const auto* table = static_cast<const dlpack::ExchangeTable*>(pointer);  // the type keeps it for ever
    while (table != nullptr && table->major > dlpack::kMajorVersion) table = table->previous;
    return table != nullptr && table->major == dlpack::kMajorVersion && table->tensor_from_py_object != nullptr ? table
                                                                                                                : nullptr;
}

DType dtype_of(const dlpack::Tensor& tensor) {
    const auto [code, bits, lanes] = tensor.dtype;
    if (lanes != 1) return DType::other;
    if (code == dlpack::kFloat && bits == 32) return DType::float32;
    if (code == dlpack::kFloat && bits == 16) return DType::float16;
    if (code == dlpack::kBfloat && bits == 16) return DType::bfloat16;
    if (code == dlpack::kInt && bits == 8) return DType::int8;
    if (code == dlpack::kInt && bits == 32) return DType::int32;
    if (code == dlpack::kInt && bits == 64) return DType::int64;
    if (code == dlpack::kUInt && bits == 8) return DType::uint8;
    return DType::other;
}

// Of a single native format character of the buffer protocol (PEP 3118). numpy has no bfloat16: its bits come as uint16.
DType dtype_of(const char* format, Py_ssize_t item_bytes) {
    if (format == nullptr || format[0] == '\0' || format[1] != '\0') return DType::other;
    switch (format[0]) {
        case 'f':
            return DType::float32;
        case 'e':
            return DType::float16;
        case 'H':
            return DType::bfloat16;
        case 'b':
            return DType::int8;
        case 'B':
            return DType::uint8;
        case 'i':
        case 'l':
        case 'q':
            return item_bytes == 8 ? DType::int64 : DType::int32;
        default:
            return DType::other;
    }
}

// An array that lends its memory: what it lends is described, then given back at once, as the caller holds the array itself.
void read_buffer(PyObject* object, TensorView& view) {
    Py_buffer buffer;
    if (PyObject_GetBuffer(object, &buffer, PyBUF_FORMAT | PyBUF_STRIDES) != 0) {
        PyErr_Clear();
        view.problem = TensorView::Problem::not_exportable;
        return;
    }
    view.problem = TensorView::Problem::none;
    if (kTensorDevice != dlpack::kCPU) view.problem = TensorView::Problem::elsewhere;
    if (buffer.ndim > TensorView::kMaxDims) view.problem = TensorView::Problem::too_many_dims;
    if (view.problem == TensorView::Problem::none) {
        view.data = buffer.buf;
        view.dtype = dtype_of(buffer.format, buffer.itemsize);
        view.ndim = buffer.ndim;
        for (int i = 0; i < buffer.ndim; ++i) {
            view.shape[i] = buffer.shape[i];
            view.stride[i] = buffer.strides[i] / buffer.itemsize;
            if (buffer.strides[i] % buffer.itemsize != 0) view.problem = TensorView::Problem::not_exportable;
        }
    }
    PyBuffer_Release(&buffer);
}

}  // namespace

const dlpack::ExchangeTable* exchange_table(PyTypeObject* type_object) {
    auto* type = reinterpret_cast<PyObject*>(type_object);
    struct Known {
        PyObject* type;
        const dlpack::ExchangeTable* table;
    };
    static Known known[4] = {};  // torch.Tensor and Parameter in practice; the GIL guards it
    static int next = 0;
    for (const Known& entry : known)
        if (entry.type == type) return entry.table;
    const dlpack::ExchangeTable* table = find_table(type);
    if (table != nullptr) {
        Py_INCREF(type);
        Py_XDECREF(known[next].type);
        known[next] = {type, table};
        next = (next + 1) % 4;
    }
    return table;
}

void read_tensor(PyObject* object, TensorView& view) {
    view = TensorView{};
    view.object = object;
    if (object == Py_None) return;
    if (PyObject_CheckBuffer(object)) return read_buffer(object, view);
    const dlpack::ExchangeTable* table = exchange_table(Py_TYPE(object));
    dlpack::Tensor tensor;
    if (table == nullptr) {
        view.problem = TensorView::Problem::not_a_tensor;
    } else if (table->tensor_from_py_object(object, &tensor) != 0) {
        PyErr_Clear();
        view.problem = TensorView::Problem::not_exportable;
    } else if (tensor.device_type != kTensorDevice) {
        view.problem = TensorView::Problem::elsewhere;
    } else if (tensor.ndim > TensorView::kMaxDims) {
        view.problem = TensorView::Problem::too_many_dims;
    } else {
        view.problem = TensorView::Problem::none;
        view.data = static_cast<char*>(tensor.data) + tensor.byte_offset;
        view.dtype = dtype_of(tensor);
        view.ndim = tensor.ndim;
        view.device_id = tensor.device_id;
        for (int i = 0; i < tensor.ndim; ++i) {
            view.shape[i] = tensor.shape[i];
            view.stride[i] = tensor.strides[i];
        }
    }
}

}  // namespace pagecli
