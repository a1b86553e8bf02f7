#include "tensor_view.h"

namespace pagecli {
namespace {

const dlpack::ExchangeTable* find_table(PyTypeObject* type) {
    PyObject* capsule = PyObject_GetAttrString(reinterpret_cast<PyObject*>(type), "__dlpack_c_exchange_api__");
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

}  // namespace

const dlpack::ExchangeTable* exchange_table(PyTypeObject* type) {
    struct Known {
        PyTypeObject* type;
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
