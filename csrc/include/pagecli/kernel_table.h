// One table of kernels per instruction set; everything above the kernels calls through a table and knows nothing of ISAs.
#pragma once

#include "pagecli/adapters/low_rank.h"
#include "pagecli/attention/paged_attention.h"
#include "pagecli/attention/store_kv.h"
#include "pagecli/elementwise/activation.h"
#include "pagecli/elementwise/gated_activation.h"
#include "pagecli/elementwise/layer_norm.h"
#include "pagecli/elementwise/rms_norm.h"
#include "pagecli/elementwise/rotary_embedding.h"
#include "pagecli/experts/combine_experts.h"
#include "pagecli/experts/router.h"
#include "pagecli/linear/embedding.h"
#include "pagecli/linear/grouped_linear.h"
#include "pagecli/linear/linear.h"
#include "pagecli/linear/linear_argmax.h"
#include "pagecli/linear/masked_argmax.h"
#include "pagecli/linear/pack_bounds.h"
#include "pagecli/linear/pack_quantized.h"
#include "pagecli/linear/pack_weight.h"
#include "pagecli/linear/pruned_argmax.h"
#include "pagecli/measure/peak.h"
#include "pagecli/measure/read_memory.h"
#include "pagecli/sampling/argmax.h"
#include "pagecli/sampling/restrict_logits.h"
#include "pagecli/sampling/sample.h"
#include "pagecli/sampling/top_logits.h"

namespace pagecli {

struct KernelTable {
    const char* isa;
#define CPU_KERNEL(name, arguments, source) void (*name)(const arguments&);
#include "pagecli/operations.def"
};

}  // namespace pagecli
