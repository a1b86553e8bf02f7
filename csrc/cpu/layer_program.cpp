#include "pagecli/layer_program.h"

#include "pagecli/isa.h"

namespace pagecli {
namespace {

// An operation with what changes from step to step, on this instruction set's kernel.
struct Runner {
    const StepArrays& step;

    template <class Args>
    Args now(Args args) const {
        args.tokens = step.tokens;
        return args;
    }

    void operator()(const LinearArgs& args) const { kernels().linear(now(args)); }
    void operator()(const RmsNormArgs& args) const { kernels().rms_norm(now(args)); }
    void operator()(const LayerNormArgs& args) const { kernels().layer_norm(now(args)); }
    void operator()(const ActivationArgs& args) const { kernels().activation(now(args)); }
    void operator()(const GatedActivationArgs& args) const { kernels().gated_activation(now(args)); }

    void operator()(const RouterArgs& args) const { kernels().router(now(args)); }
    void operator()(const GroupedLinearArgs& args) const { kernels().grouped_linear(now(args)); }
    void operator()(const CombineExpertsArgs& args) const { kernels().combine_experts(now(args)); }

    void operator()(const ReduceArgs& args) const { reduce(now(args)); }

    void operator()(const LowRankArgs& recorded) const {
        LowRankArgs args = now(recorded);
        args.adapter_ids = step.adapter_ids;
        kernels().low_rank(args);
    }

    void operator()(const RotaryEmbeddingArgs& recorded) const {
        RotaryEmbeddingArgs args = now(recorded);
        args.positions = step.positions;
        args.cos_sin = step.cos_sin + recorded.first_column;
        args.cos_sin_stride = step.cos_sin_stride;
        kernels().rotary_embedding(args);
    }

    void operator()(const StoreKVArgs& recorded) const {
        StoreKVArgs args = now(recorded);
        args.slot_ids = step.slot_ids;
        kernels().store_kv(args);
    }

    void operator()(PagedAttentionArgs args) const {
        args.sequences = step.sequences;
        args.block_tables = step.block_tables;
        args.block_tables_stride = step.block_tables_stride;
        args.context_lens = step.context_lens;
        args.query_start = step.query_start;
        kernels().paged_attention(args);
    }
};

}  // namespace

void LayerProgram::run(const StepArrays& step) const {
    const Runner runner{step};
    for (const Operation& operation : operations_) std::visit(runner, operation);
}

}  // namespace pagecli
