// One table of kernels per instruction set; everything above the kernels calls through a table and knows nothing of ISAs.
#pragma once

#include "pagecli/activation.h"
#include "pagecli/argmax.h"
#include "pagecli/embedding.h"
#include "pagecli/linear.h"
#include "pagecli/norm.h"
#include "pagecli/pack_weight.h"
#include "pagecli/paged_kv.h"
#include "pagecli/peak.h"
#include "pagecli/rotary_embedding.h"
#include "pagecli/sample.h"
#include "pagecli/screen.h"

namespace pagecli {

struct KernelTable {
    const char* isa;
    void (*pack_weight)(const PackWeightArgs&);
    void (*embedding)(const EmbeddingArgs&);
    void (*linear)(const LinearArgs&);
    void (*linear_argmax)(const LinearArgmaxArgs&);
    void (*pack_screen)(const PackScreenArgs&);
    void (*screened_argmax)(const ScreenedArgmaxArgs&);
    void (*rms_norm)(const RmsNormArgs&);
    void (*layer_norm)(const LayerNormArgs&);
    void (*rotary_embedding)(const RotaryEmbeddingArgs&);
    void (*activation)(const ActivationArgs&);
    void (*gated_activation)(const GatedActivationArgs&);
    void (*store_kv)(const StoreKVArgs&);
    void (*paged_attention)(const PagedAttentionArgs&);
    void (*argmax)(const ArgmaxArgs&);
    void (*sample)(const SampleArgs&);
    void (*peak)(const PeakArgs&);
    void (*read_memory)(const ReadMemoryArgs&);
};

}  // namespace pagecli
