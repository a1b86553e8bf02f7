#include "check_sequences.h"

#include "check.h"

namespace pagecli {

void check_sequences(const PagedAttentionArgs& a, int64_t num_tokens, int64_t max_blocks, int64_t num_blocks) {
    if (a.query_start[0] < 0) refuse("query_start[0]: expected 0 or more, got %d", a.query_start[0]);
    for (int64_t s = 0; s < a.sequences; ++s) {
        const long long index = s;
        const int64_t begin = a.query_start[s], end = a.query_start[s + 1], context = a.context_lens[s];
        if (end < begin || end > num_tokens)
            refuse("query_start[%lld]: expected %lld to %lld, got %lld", index + 1, static_cast<long long>(begin),
                   static_cast<long long>(num_tokens), static_cast<long long>(end));
        if (begin == end) continue;
        if (context < end - begin || context > max_blocks * a.block_size)
            refuse("context_lens[%lld]: expected %lld (its queries) to %lld (its block table's slots), got %lld", index,
                   static_cast<long long>(end - begin), static_cast<long long>(max_blocks * a.block_size),
                   static_cast<long long>(context));
        const int64_t first_position = context - (end - begin);
        const int64_t first_key = a.window > 0 && first_position >= a.window ? first_position - a.window + 1 : 0;
        const int32_t* blocks = a.block_tables + s * a.block_tables_stride;
        for (int64_t i = first_key / a.block_size; i * a.block_size < context; ++i) {
            if (blocks[i] < 0 || blocks[i] >= num_blocks)
                refuse("block_tables[%lld, %lld]: expected a block below %lld, got %d", index, static_cast<long long>(i),
                       static_cast<long long>(num_blocks), blocks[i]);
        }
    }
}

}  // namespace pagecli
