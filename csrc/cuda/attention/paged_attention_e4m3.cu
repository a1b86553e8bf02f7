// Decode and prefill over a cache of 8-bit floats; the model has 16 bits.
#include "paged_attention_decode.h"
#include "paged_attention_prefill.h"

namespace pagecli::cuda {

void paged_attention_decode_e4m3(const DecodeArgs& d, Stream stream) {
    if (d.attention.type == ElementType::bfloat16) return decode<BFloat16, E4M3>(d, stream);
    decode<Float16, E4M3>(d, stream);
}

int resident_decode_blocks_e4m3(int64_t group, int64_t head_dim, ElementType type) {
    if (type == ElementType::bfloat16) return resident_decode_blocks<BFloat16, E4M3>(group, head_dim);
    return resident_decode_blocks<Float16, E4M3>(group, head_dim);
}

void paged_attention_prefill_e4m3(const PrefillArgs& p, Stream stream) {
    if (p.attention.type == ElementType::bfloat16) return prefill<BFloat16, E4M3>(p, stream);
    prefill<Float16, E4M3>(p, stream);
}

}  // namespace pagecli::cuda
