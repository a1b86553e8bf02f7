// The instruction sets this build carries kernels for, and the one this process uses.
#pragma once

#include "pagecli/kernel_table.h"

namespace pagecli {

// Tables this machine can run, best first; returns how many were written to `tables` (room for kMaxTables).
constexpr int kMaxTables = 5;
int supported_tables(const KernelTable** tables);

// The table in use: the best one until select_table names another.
const KernelTable& kernels();

// Use the table called `isa`; false if this build or machine has none of that name.
bool select_table(const char* isa);

}  // namespace pagecli
