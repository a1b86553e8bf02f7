// The groups of operations that make up the extension module. Every function checks its arguments with the GIL held, then runs
// the kernel without it.
#pragma once

#include <nanobind/nanobind.h>

#include "pagecli/activation.h"

namespace pagecli {

void bind_matrix(nanobind::module_& module);       // pack_weight, embedding, linear, linear_argmax
void bind_elementwise(nanobind::module_& module);  // norms, rotary embedding, activations, argmax
void bind_paged_kv(nanobind::module_& module);     // store_kv, paged_attention, copy_blocks
void bind_layer_program(nanobind::module_& module);  // LayerProgram
void bind_peak(nanobind::module_& module);         // peak_operations, read_memory

// "none", "relu", "gelu", "gelu_tanh", "silu"; ValueError for any other name.
Activation activation_named(const char* name);

}  // namespace pagecli
