// What the CUDA bindings ask of their tensors beyond check.h: 16-byte rows, one element type, and the stream to work on.
// Values on the GPU (slots, blocks, token ids) are not looked at: that would wait for the GPU. Who makes them answers for them.
#pragma once

#include <initializer_list>

#include "pagecli/cuda/device.h"
#include "tensors/check.h"

namespace pagecli {

// A tensor of float32, bfloat16 or float16 and this shape, whose rows begin at multiples of 16 bytes.
cuda::ElementType check_rows(const TensorView& tensor, const char* name, std::initializer_list<Dim> shape);

// The same of a tensor that must have this element type.
void check_rows(const TensorView& tensor, const char* name, cuda::ElementType type, std::initializer_list<Dim> shape);

// The two caches of a layer, [num_blocks, kv_heads, block_size, head_dim] in one run of memory: of the model's type or, as
// uint8 tensors, of e4m3, whose heads are multiples of 16 and whose scales above 0 (and 1 otherwise).
cuda::CacheType check_caches(const TensorView& k_cache, const TensorView& v_cache, cuda::ElementType type,
                             cuda::CacheScales scales);

// A contiguous float32 vector at a multiple of 16 bytes.
void check_vector(const TensorView& tensor, const char* name, int64_t size);

// `value` is a multiple of `divisor` from 1 to `most`.
void check_multiple(const char* name, int64_t value, int64_t divisor, int64_t most);

// The stream that torch queues its work on now, for the tensor's device.
cuda::Stream stream_of(const TensorView& tensor);

// The strides of a [tokens, heads, dim] or [tokens, dim] tensor's rows; 0 for the heads of the latter.
inline int64_t head_stride(const TensorView& tensor) { return tensor.ndim == 3 ? tensor.stride[1] : 0; }

}  // namespace pagecli
