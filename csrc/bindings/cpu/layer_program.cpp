// LayerProgram: a model's layers, recorded by the bindings that run operations one by one, then run as one call.
#include "pagecli/layer_program.h"

#include <algorithm>

#include "bind.h"
#include "recording.h"
#include "tensors/check.h"
#include "tensors/check_sequences.h"

namespace nb = nanobind;

namespace pagecli {
namespace {

void check_rotation(const RecordedProgram& program, const TensorView& positions, const TensorView& cos_sin) {
    if (program.table_width < 0) return;
    check(cos_sin, "cos_sin", DType::float32, {"positions", program.table_width});
    check_ids(positions, "positions", cos_sin.shape[0]);
}

void check_blocks(const RecordedProgram& program, const StepArrays& step, int64_t max_blocks) {
    for (const RecordedProgram::Cache& cache : program.caches) {
        PagedAttentionArgs args = {};
        args.block_tables = step.block_tables;
        args.block_tables_stride = step.block_tables_stride;
        args.context_lens = step.context_lens;
        args.query_start = step.query_start;
        args.sequences = step.sequences;
        args.block_size = cache.block_size;
        args.window = cache.window;
        check_sequences(args, step.tokens, max_blocks, cache.num_blocks);
    }
}

void run(const RecordedProgram& program, const TensorView& positions, const TensorView& cos_sin, const TensorView& slot_ids,
         const TensorView& block_tables, const TensorView& context_lens, const TensorView& query_start,
         const TensorView& adapter_ids) {
    check(positions, "positions", DType::int32, {"tokens"});
    check(slot_ids, "slot_ids", DType::int64, {positions.shape[0]});
    check(block_tables, "block_tables", DType::int32, {"sequences", "max_blocks"});
    check(context_lens, "context_lens", DType::int32, {block_tables.shape[0]});
    check(query_start, "query_start", DType::int32, {block_tables.shape[0] + 1});
    if (positions.shape[0] > program.max_tokens)
        refuse("positions: expected at most %lld tokens, got %lld", static_cast<long long>(program.max_tokens),
               static_cast<long long>(positions.shape[0]));
    check_rotation(program, positions, cos_sin);
    if (program.num_slots >= 0) check_ids(slot_ids, "slot_ids", program.num_slots);
    if (adapter_ids.given()) {
        check(adapter_ids, "adapter_ids", DType::int32, {positions.shape[0]});
        check_adapter_ids(adapter_ids, program.num_adapters);
    }
    const StepArrays step = {positions.shape[0],
                             block_tables.shape[0],
                             positions.as<const int32_t>(),
                             cos_sin.as<const float>(),
                             slot_ids.as<const int64_t>(),
                             block_tables.as<const int32_t>(),
                             context_lens.as<const int32_t>(),
                             query_start.as<const int32_t>(),
                             cos_sin.given() ? cos_sin.stride[0] : 0,
                             block_tables.stride[0],
                             adapter_ids.given() ? adapter_ids.as<const int32_t>() : nullptr};
    check_blocks(program, step, block_tables.shape[1]);
    nb::gil_scoped_release release;
    program.program.run(step);
}

}  // namespace

RecordedProgram::RecordedProgram(int64_t max_tokens) : max_tokens(max_tokens) {
    if (max_tokens < 1) refuse("max_tokens: expected 1 or more, got %lld", static_cast<long long>(max_tokens));
}

void RecordedProgram::add(const LayerProgram::Operation& operation, int64_t tokens) {
    if (tokens != max_tokens)
        refuse("recording: expected an operation on %lld tokens, got %lld", static_cast<long long>(max_tokens),
               static_cast<long long>(tokens));
    program.add(operation);
}

void RecordedProgram::add_attention(const PagedAttentionArgs& args, int64_t tokens, int64_t num_blocks) {
    add(args, tokens);
    const Cache cache = {num_blocks, args.block_size, args.window};
    if (std::find(caches.begin(), caches.end(), cache) == caches.end()) caches.push_back(cache);
}

void RecordedProgram::add_store(const StoreKVArgs& args, int64_t slots) {
    add(args, args.tokens);
    num_slots = num_slots < 0 ? slots : std::min(num_slots, slots);
}

void RecordedProgram::add_low_rank(const LowRankArgs& args, int64_t adapters) {
    add(args, args.tokens);
    num_adapters = num_adapters < 0 ? adapters : std::min(num_adapters, adapters);
}

void RecordedProgram::add_rotary(const RotaryEmbeddingArgs& args, int64_t columns) {
    if (table_width >= 0 && table_width != columns) refuse("recording: expected one cos_sin for all layers");
    add(args, args.tokens);
    table_width = columns;
}

void bind_layer_program(nb::module_& module) {
    nb::class_<RecordedProgram>(module, "LayerProgram")
        .def(nb::init<int64_t>(), nb::arg("max_tokens"))
        .def("run", run, nb::arg("positions"), nb::arg("cos_sin").none(), nb::arg("slot_ids"), nb::arg("block_tables"),
             nb::arg("context_lens"), nb::arg("query_start"), nb::arg("adapter_ids").none())
        .def_prop_ro("num_operations", [](const RecordedProgram& p) { return p.program.operations().size(); });
}

}  // namespace pagecli
