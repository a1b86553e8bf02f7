#include "check.h"

#include "pagecli/sampling/token_mask.h"

#include <cstdarg>
#include <cstdio>
#include <string>

namespace nb = nanobind;

namespace pagecli {
namespace {

const char* dtype_name(DType dtype) {
    switch (dtype) {
        case DType::float32:
            return "float32";
        case DType::bfloat16:
            return "bfloat16";
        case DType::float16:
            return "float16";
        case DType::int8:
            return "int8";
        case DType::int32:
            return "int32";
        case DType::int64:
            return "int64";
        case DType::uint8:
            return "uint8";
        case DType::other:
            break;
    }
    return "another dtype";
}

[[noreturn]] void refuse_type(const char* name, const std::string& expected, const std::string& got) {
    throw nb::type_error((std::string(name) + ": expected " + expected + ", got " + got).c_str());
}

void check_tensor(const TensorView& tensor, const char* name) {
    using Problem = TensorView::Problem;
    switch (tensor.problem) {
        case Problem::none:
            return;
        case Problem::is_none:
        case Problem::not_a_tensor:
            refuse_type(name, "an array or tensor", nb::str(nb::handle(tensor.object).type().attr("__name__")).c_str());
        case Problem::not_exportable:
            refuse_type(name, std::string("a dense tensor on ") + kTensorPlace, "one whose memory cannot be lent");
        case Problem::elsewhere:
            refuse("%s: expected a tensor on %s, got one on another device", name, kTensorPlace);
        case Problem::too_many_dims:
            refuse("%s: expected at most %d dimensions", name, TensorView::kMaxDims);
    }
}

std::string list(std::initializer_list<Dim> shape) {
    std::string text = "[";
    for (const Dim& dim : shape) {
        if (text.size() > 1) text += ", ";
        text += dim.name != nullptr ? dim.name : std::to_string(dim.size);
    }
    return text + "]";
}

std::string list(const int64_t* values, int count) {
    std::string text = "[";
    for (int i = 0; i < count; ++i) text += (i > 0 ? ", " : "") + std::to_string(values[i]);
    return text + "]";
}

void check_shape(const TensorView& tensor, const char* name, std::initializer_list<Dim> shape) {
    bool equal = tensor.ndim == static_cast<int>(shape.size());
    for (int i = 0; equal && i < tensor.ndim; ++i) {
        const int64_t size = shape.begin()[i].size;
        equal = size < 0 || size == tensor.shape[i];
    }
    if (!equal) refuse("%s: expected %s, got %s", name, list(shape).c_str(), list(tensor.shape, tensor.ndim).c_str());
    const int last = tensor.ndim - 1;
    if (last >= 0 && tensor.shape[last] > 1 && tensor.stride[last] != 1)
        refuse("%s: expected a contiguous last dimension, got strides %s", name, list(tensor.stride, tensor.ndim).c_str());
}

template <class T>
void check_range(const TensorView& tensor, const char* name, int64_t limit) {
    const T* values = tensor.as<const T>();
    for (int64_t i = 0; i < tensor.shape[0]; ++i) {
        if (values[i] < 0 || values[i] >= limit)
            refuse("%s[%lld]: expected 0 <= value < %lld, got %lld", name, static_cast<long long>(i),
                   static_cast<long long>(limit), static_cast<long long>(values[i]));
    }
}

}  // namespace

void refuse(const char* format, ...) {
    char message[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    throw nb::value_error(message);
}

void check(const TensorView& tensor, const char* name, DType dtype, std::initializer_list<Dim> shape) {
    check(tensor, name, {dtype}, shape);
}

void check(const TensorView& tensor, const char* name, std::initializer_list<DType> dtypes, std::initializer_list<Dim> shape) {
    check_tensor(tensor, name);
    std::string expected;
    for (const DType dtype : dtypes) {
        if (tensor.dtype == dtype) return check_shape(tensor, name, shape);
        expected += (expected.empty() ? "" : " or ") + std::string(dtype_name(dtype));
    }
    refuse_type(name, expected, dtype_name(tensor.dtype));
}

void check_contiguous(const TensorView& tensor, const char* name) {
    int64_t size = 1;
    for (int i = tensor.ndim - 1; i >= 0; --i) {
        if (tensor.shape[i] > 1 && tensor.stride[i] != size)
            refuse("%s: expected a contiguous tensor, got strides %s", name, list(tensor.stride, tensor.ndim).c_str());
        size *= tensor.shape[i];
    }
}

void check_whole(const TensorView& tensor, const char* name, DType dtype, std::initializer_list<Dim> shape) {
    check(tensor, name, dtype, shape);
    check_contiguous(tensor, name);
}

void check_masks(const TensorView& words, const TensorView& mask_of, int64_t rows, int64_t cols) {
    check_whole(words, "words", DType::int32, {"masks", mask_words(cols)});
    check(mask_of, "mask_of", DType::int32, {rows});
    const int32_t* of_row = mask_of.as<const int32_t>();
    for (int64_t row = 0; row < rows; ++row)
        if (of_row[row] >= words.shape[0])
            refuse("mask_of[%lld]: expected a value < %lld, got %d", static_cast<long long>(row),
                   static_cast<long long>(words.shape[0]), of_row[row]);
    const int64_t used = cols % 32;
    for (int64_t mask = 0; used != 0 && mask < words.shape[0]; ++mask)
        if ((words.as<const uint32_t>()[(mask + 1) * mask_words(cols) - 1] >> used) != 0)
            refuse("words[%lld]: expected no bits beyond the %lld outputs", static_cast<long long>(mask), static_cast<long long>(cols));
}

void check_adapter_ids(const TensorView& tensor, int64_t limit) {
    check_contiguous(tensor, "adapter_ids");
    const int32_t* of_token = tensor.as<const int32_t>();
    for (int64_t token = 0; token < tensor.shape[0]; ++token)
        if (of_token[token] < -1 || of_token[token] >= limit)
            refuse("adapter_ids[%lld]: expected a value in [-1, %lld), got %d", static_cast<long long>(token),
                   static_cast<long long>(limit), of_token[token]);
}

void check_ids(const TensorView& tensor, const char* name, int64_t limit) {
    if (tensor.dtype == DType::int32) {
        check_range<int32_t>(tensor, name, limit);
    } else {
        check_range<int64_t>(tensor, name, limit);
    }
}

}  // namespace pagecli
