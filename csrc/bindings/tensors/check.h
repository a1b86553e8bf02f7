// Checks of tensor arguments at the border, in the words of the operation: `q: expected [tokens, heads, 64], got [3, 12, 32]`.
// A wrong type raises TypeError, a wrong shape, stride or value ValueError. Call with the GIL.
#pragma once

#include <initializer_list>

#include "tensor_view.h"

namespace pagecli {

// A dimension that may have any size (its name) or must have one (its size).
struct Dim {
    Dim(const char* any) : name(any), size(-1) {}
    Dim(int64_t exact) : name(nullptr), size(exact) {}
    const char* name;
    int64_t size;
};

// A tensor on the module's device of this dtype and shape whose last dimension is contiguous.
void check(const TensorView& tensor, const char* name, DType dtype, std::initializer_list<Dim> shape);

// The same for a tensor of one of several dtypes.
void check(const TensorView& tensor, const char* name, std::initializer_list<DType> dtypes, std::initializer_list<Dim> shape);

// All of it in one run of memory.
void check_contiguous(const TensorView& tensor, const char* name);

// A tensor of this dtype and shape in one run of memory.
void check_whole(const TensorView& tensor, const char* name, DType dtype, std::initializer_list<Dim> shape);

// Masks of rows with `cols` outputs (pagecli/sampling/token_mask.h): words[masks, mask_words(cols)] int32, mask_of[rows] int32.
void check_masks(const TensorView& words, const TensorView& mask_of, int64_t rows, int64_t cols);

// Every value of a contiguous int32 or int64 tensor in [0, limit).
void check_ids(const TensorView& tensor, const char* name, int64_t limit);

// Every value of a contiguous int32 tensor in [-1, limit).
void check_adapter_ids(const TensorView& tensor, int64_t limit);

// ValueError with a printf-style message; needs no GIL.
[[noreturn, gnu::format(printf, 1, 2)]] void refuse(const char* format, ...);

}  // namespace pagecli
