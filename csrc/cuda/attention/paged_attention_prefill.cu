// Prefill over a cache of the model's own type.
#include "paged_attention_prefill.h"

namespace pagecli::cuda {

void paged_attention_prefill(const PrefillArgs& p, Stream stream) {
    if (p.num_tiles == 0) return;
    if (p.attention.cache_type == CacheType::e4m3) return paged_attention_prefill_e4m3(p, stream);
    if (p.attention.type == ElementType::bfloat16) {
        prefill<BFloat16, BFloat16>(p, stream);
    } else {
        prefill<Float16, Float16>(p, stream);
    }
}

}  // namespace pagecli::cuda
