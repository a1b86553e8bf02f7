// This instruction set's kernels, collected; compiled once per ISA like every kernel.
#include "pagecli/kernel_table.h"

#define PAGECLI_NAME_OF(isa) #isa
#define PAGECLI_NAME(isa) PAGECLI_NAME_OF(isa)

namespace pagecli::PAGECLI_ISA {

void pack_weight(const PackWeightArgs&);
void embedding(const EmbeddingArgs&);
void linear(const LinearArgs&);
void linear_argmax(const LinearArgmaxArgs&);
void pack_screen(const PackScreenArgs&);
void screened_argmax(const ScreenedArgmaxArgs&);
void rms_norm(const RmsNormArgs&);
void layer_norm(const LayerNormArgs&);
void rotary_embedding(const RotaryEmbeddingArgs&);
void activation(const ActivationArgs&);
void gated_activation(const GatedActivationArgs&);
void store_kv(const StoreKVArgs&);
void paged_attention(const PagedAttentionArgs&);
void argmax(const ArgmaxArgs&);
void sample(const SampleArgs&);
void peak(const PeakArgs&);
void read_memory(const ReadMemoryArgs&);

extern const KernelTable table;
const KernelTable table = {
    PAGECLI_NAME(PAGECLI_ISA),
    pack_weight,
    embedding,
    linear,
    linear_argmax,
    pack_screen,
    screened_argmax,
    rms_norm,
    layer_norm,
    rotary_embedding,
    activation,
    gated_activation,
    store_kv,
    paged_attention,
    argmax,
    sample,
    peak,
    read_memory,
};

}  // namespace pagecli::PAGECLI_ISA
