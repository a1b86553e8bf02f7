// The layout of the paged KV cache. One block of one layer, KV head by KV head:
//
//   v_cache[block]  h = 0: [s = 0: head_dim values][s = 1: ...] ... [s = block_size - 1]   h = 1: ...
//   k_cache[block]  h = 0: [d = 0: block_size slots][d = 1: ...] ... [d = head_dim - 1]    h = 1: ...
//
// K lies dimension by dimension, so that the CPU's vectors hold one dimension of several keys. int8: a slot of a head has a
// scale too, a float32, in V as four bytes after its values, in K as four rows of block_size bytes after the last dimension: a
// value is byte * scale. So a block is one run of memory whatever its type, and moves as a whole.
#pragma once

#include <stdint.h>

namespace pagecli {

enum class KVType : int32_t { float32, bfloat16, int8 };

constexpr int64_t kKVScaleBytes = 4;
constexpr int64_t kMaxHeadDim = 256;

}  // namespace pagecli
