// The groups of operations of the extension module pagecli.devices.cuda._cuda. Every function checks its arguments with the GIL held
// and queues its work; nothing waits for the GPU.
#pragma once

#include <nanobind/nanobind.h>

#include "pagecli/activation.h"

namespace pagecli {

void bind_cuda_elementwise(nanobind::module_& module);  // norms, activations, embedding
void bind_cuda_paged_cache(nanobind::module_& module);  // store_kv, rotary_store_kv, copy_blocks, swap_blocks
void bind_cuda_attention(nanobind::module_& module);    // paged attention and its plan
void bind_cuda_sampling(nanobind::module_& module);     // argmax, sample_tokens

}  // namespace pagecli
