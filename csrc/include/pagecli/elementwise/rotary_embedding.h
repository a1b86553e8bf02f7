// Arguments of the rotary position embedding (Su et al., RoFormer, 2021), "neox" order: dimension i pairs with i + rotary_dim
// / 2.
#pragma once

#include <stdint.h>

namespace pagecli {

struct RotaryEmbeddingArgs {
    float* q;                  // [tokens, heads, head_dim], rotated in place
    float* k;                  // [tokens, kv_heads, head_dim], rotated in place
    const int32_t* positions;  // [tokens], each below the rows of cos_sin
    const float* cos_sin;      // [positions, rotary_dim]: rotary_dim / 2 cosines, then as many sines
    int64_t q_stride[2], k_stride[2], cos_sin_stride;
    int64_t tokens, heads, kv_heads, rotary_dim;
    int64_t first_column;  // where the table of several is in its rows: cos_sin points there
};

}  // namespace pagecli
