// Decode over a cache of the model's own type.
#include "paged_attention_decode.h"

namespace pagecli::cuda {

void paged_attention_decode(const DecodeArgs& d, Stream stream) {
    if (d.num_runs == 0) return;
    if (d.attention.cache_type == CacheType::e4m3) return paged_attention_decode_e4m3(d, stream);
    with_element_type(d.attention.type, [&](auto element) { decode<decltype(element), decltype(element)>(d, stream); });
}

int resident_decode_blocks(int64_t group, int64_t head_dim, ElementType type, CacheType cache_type) {
    if (cache_type == CacheType::e4m3) return resident_decode_blocks_e4m3(group, head_dim, type);
    int blocks = 0;
    with_element_type(type, [&](auto element) {
        blocks = resident_decode_blocks<decltype(element), decltype(element)>(group, head_dim);
    });
    return blocks;
}

}  // namespace pagecli::cuda
