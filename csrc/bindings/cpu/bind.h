// What makes up the extension module: a function for each operation. What they bind checks its arguments with the GIL held,
// then runs the kernel without it.
#pragma once

#include <nanobind/nanobind.h>

#include "pagecli/elementwise/activation.h"

namespace pagecli {

#define CPU_KERNEL(name, arguments, source) void bind_##name(nanobind::module_& module);
#define CPU_FUNCTION(name, source) void bind_##name(nanobind::module_& module);
#include "pagecli/operations.def"

void bind_layer_program(nanobind::module_& module);  // LayerProgram

// "none", "relu", "gelu", "gelu_tanh", "silu", "relu2"; ValueError for any other name.
Activation activation_named(const char* name);

}  // namespace pagecli
