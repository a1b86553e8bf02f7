// embedding: rows gathered out of a packed weight, so that a tied embedding and LM head share one copy.
#include "pagecli/linear/embedding.h"

#include "gather_row.h"
#include "parallel.h"

namespace pagecli::PAGECLI_ISA {

void embedding(const EmbeddingArgs& a) {
    parallel_for(a.tokens, row_grain(16 * a.weight.cols), [&](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t) gather_row(a.out + t * a.out_stride, a.weight, a.token_ids[t]);
    });
}

}  // namespace pagecli::PAGECLI_ISA
