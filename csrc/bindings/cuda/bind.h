// What makes up the extension module pagecli.devices.cuda._cuda: a function for each operation. What they bind checks its
// arguments with the GIL held and queues its work; nothing waits for the GPU.
#pragma once

#include <nanobind/nanobind.h>

#include "pagecli/elementwise/activation.h"

namespace pagecli {

#define CUDA_OPERATION(name, source) void bind_##name(nanobind::module_& module);
#include "pagecli/operations.def"

void bind_attention_plan(nanobind::module_& module);  // choose_run_length, cut_into_runs, cut_into_tiles, resident_decode_blocks

}  // namespace pagecli
