// This instruction set's kernels, collected; compiled once per ISA like every kernel.
#include "pagecli/kernel_table.h"

#define PAGECLI_NAME_OF(isa) #isa
#define PAGECLI_NAME(isa) PAGECLI_NAME_OF(isa)

namespace pagecli::PAGECLI_ISA {

#define CPU_KERNEL(name, arguments, source) void name(const arguments&);
#include "pagecli/operations.def"

extern const KernelTable table;
const KernelTable table = {
    PAGECLI_NAME(PAGECLI_ISA),
#define CPU_KERNEL(name, arguments, source) name,
#include "pagecli/operations.def"
};

}  // namespace pagecli::PAGECLI_ISA
