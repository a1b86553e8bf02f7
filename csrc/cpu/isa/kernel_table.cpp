// This instruction set's kernels, collected; compiled once per ISA like every kernel. PAGECLI_BASE_ISA: the set from which this one
// differs by its products alone, and whose other kernels it takes.
#include "pagecli/kernel_table.h"

#define PAGECLI_NAME_OF(isa) #isa
#define PAGECLI_NAME(isa) PAGECLI_NAME_OF(isa)
#ifndef PAGECLI_BASE_ISA
#define PAGECLI_BASE_ISA PAGECLI_ISA
#endif

namespace pagecli::PAGECLI_BASE_ISA {
#define CPU_KERNEL(name, arguments, source) void name(const arguments&);
#include "pagecli/operations.def"
}  // namespace pagecli::PAGECLI_BASE_ISA

namespace pagecli::PAGECLI_ISA {

#define CPU_PRODUCT(name, arguments, source) void name(const arguments&);
#include "pagecli/operations.def"

extern const KernelTable table;
const KernelTable table = {
    PAGECLI_NAME(PAGECLI_ISA),
#define CPU_KERNEL(name, arguments, source) PAGECLI_BASE_ISA::name,
#define CPU_PRODUCT(name, arguments, source) name,
#include "pagecli/operations.def"
};

}  // namespace pagecli::PAGECLI_ISA
