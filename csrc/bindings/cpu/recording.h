// Operations that are recorded instead of run: those that are given a program to be recorded in.
#pragma once

#include <nanobind/nanobind.h>

#include "pagecli/layer_program.h"

namespace pagecli {

// A program and what its steps are checked against.
struct RecordedProgram {
    explicit RecordedProgram(int64_t max_tokens);  // rows of every operation, the most that a step may have
    // An attention whose tables and lengths have to be checked by themselves; blocks of those recorded in one program mostly agree.
    struct Cache {
        int64_t num_blocks, block_size, window;
        bool operator==(const Cache& other) const {
            return num_blocks == other.num_blocks && block_size == other.block_size && window == other.window;
        }
    };

    LayerProgram program;
    int64_t max_tokens;
    int64_t num_slots = -1;   // of the smallest cache that is written; -1: none is
    int64_t table_width = -1;  // columns of cos_sin; -1: nothing is rotated
    int64_t num_adapters = -1;  // -1: no operation has any
    std::vector<Cache> caches;

    // Every operation has to be on `max_tokens` rows; ValueError where it is not.
    void add(const LayerProgram::Operation& operation, int64_t tokens);
    void add_attention(const PagedAttentionArgs& args, int64_t tokens, int64_t num_blocks);
    void add_store(const StoreKVArgs& args, int64_t num_slots);
    void add_low_rank(const LowRankArgs& args, int64_t num_adapters);
    void add_rotary(const RotaryEmbeddingArgs& args, int64_t columns);
};

// Runs an operation without the GIL or, given a program, records it there.
template <class Args>
void perform(const Args& args, void (*kernel)(const Args&), RecordedProgram* program) {
    if (program != nullptr) return program->add(args, args.tokens);
    nanobind::gil_scoped_release release;
    kernel(args);
}

}  // namespace pagecli
