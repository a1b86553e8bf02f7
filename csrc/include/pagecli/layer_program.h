// A model's layers as a list of operations, recorded once and run for any number of tokens. What changes from step to step is
// how many tokens there are and the arrays that tell where they lie; the buffers, the weights and the caches stay where they
// were when the operations were recorded, and must outlive the program.
#pragma once

#include <stdint.h>

#include <variant>
#include <vector>

#include "pagecli/adapters/low_rank.h"
#include "pagecli/attention/paged_attention.h"
#include "pagecli/attention/store_kv.h"
#include "pagecli/elementwise/activation.h"
#include "pagecli/elementwise/gated_activation.h"
#include "pagecli/elementwise/layer_norm.h"
#include "pagecli/elementwise/reduce.h"
#include "pagecli/elementwise/rms_norm.h"
#include "pagecli/elementwise/rotary_embedding.h"
#include "pagecli/experts/combine_experts.h"
#include "pagecli/experts/router.h"
#include "pagecli/linear/grouped_linear.h"
#include "pagecli/linear/linear.h"

namespace pagecli {

// One step: the arguments of the operations with the same names.
struct StepArrays {
    int64_t tokens, sequences;
    const int32_t* positions;     // [tokens]
    const float* cos_sin;         // [positions, columns]: the tables of all rotations, side by side
    const int64_t* slot_ids;      // [tokens]
    const int32_t* block_tables;  // [sequences, max_blocks]
    const int32_t* context_lens;  // [sequences]
    const int32_t* query_start;   // [sequences + 1]
    int64_t cos_sin_stride, block_tables_stride;
    const int32_t* adapter_ids;  // [tokens]; null: no token has an adapter
};

class LayerProgram {
   public:
    using Operation = std::variant<LinearArgs, RmsNormArgs, LayerNormArgs, RotaryEmbeddingArgs, ActivationArgs,
                                   GatedActivationArgs, StoreKVArgs, PagedAttentionArgs, ReduceArgs, LowRankArgs, RouterArgs,
                                   GroupedLinearArgs, CombineExpertsArgs>;

    void add(const Operation& operation) { operations_.push_back(operation); }
    const std::vector<Operation>& operations() const { return operations_; }

    // All operations in order on the first `step.tokens` rows of their buffers. Trusts its arguments, as kernels do.
    void run(const StepArrays& step) const;

   private:
    std::vector<Operation> operations_;
};

}  // namespace pagecli
