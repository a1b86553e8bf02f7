// Chooses the kernels of the best instruction set this machine has. Compiled once, for the baseline.
#include "pagecli/isa.h"

#include <string.h>

#include <atomic>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

// clang-format off
namespace pagecli {
namespace generic { extern const KernelTable table; }
namespace avx2 { extern const KernelTable table; }
namespace avx512 { extern const KernelTable table; }
namespace avx512bf16 { extern const KernelTable table; }
namespace amx { extern const KernelTable table; }
namespace neon { extern const KernelTable table; }
namespace neon_bf16 { extern const KernelTable table; }
// clang-format on

namespace {

#if defined(__x86_64__)
[[maybe_unused]] bool has_avx2() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
           __builtin_cpu_supports("bmi2");
}

[[maybe_unused]] bool has_avx512() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

[[maybe_unused]] bool has_avx512bf16() {  // -march=cooperlake also assumes VNNI
    return has_avx512() && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
}

// Linux gives a process the tile registers only when it asks for them, once for all its threads, those to come included.
[[maybe_unused]] bool has_amx() {
#if defined(__linux__)
    constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    constexpr unsigned kTile = 1u << 24, kInt8 = 1u << 25, kBfloat16 = 1u << 22;  // of CPUID leaf 7, EDX
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    if (!has_avx512bf16() || __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return false;
    constexpr unsigned kAll = kTile | kInt8 | kBfloat16;
    static const bool permitted = (edx & kAll) == kAll && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
    return permitted;
#else
    return false;
#endif
}
#endif

#if defined(__aarch64__) && defined(__linux__)
// Bits of AT_HWCAP and AT_HWCAP2, by the kernel's asm/hwcap.h; a C library's header may be older than its kernel.
[[maybe_unused]] bool has_neon() {
    constexpr unsigned long kDotProducts = 1ul << 20;
    return (getauxval(AT_HWCAP) & kDotProducts) != 0;
}
[[maybe_unused]] bool has_neon_bf16() {
    constexpr unsigned long kInt8 = 1ul << 13, kBfloat16 = 1ul << 14, kBoth = kInt8 | kBfloat16;
    return has_neon() && (getauxval(AT_HWCAP2) & kBoth) == kBoth;
}
#endif

std::atomic<const KernelTable*> selected{nullptr};

}  // namespace

int supported_tables(const KernelTable** tables) {
    int count = 0;
#if defined(PAGECLI_HAS_amx)
    if (has_amx()) tables[count++] = &amx::table;
#endif
#if defined(PAGECLI_HAS_avx512bf16)
    if (has_avx512bf16()) tables[count++] = &avx512bf16::table;
#endif
#if defined(PAGECLI_HAS_avx512)
    if (has_avx512()) tables[count++] = &avx512::table;
#endif
#if defined(PAGECLI_HAS_avx2)
    if (has_avx2()) tables[count++] = &avx2::table;
#endif
#if defined(PAGECLI_HAS_neon_bf16)
    if (has_neon_bf16()) tables[count++] = &neon_bf16::table;
#endif
#if defined(PAGECLI_HAS_neon)
    if (has_neon()) tables[count++] = &neon::table;
#endif
    tables[count++] = &generic::table;
    return count;
}

const KernelTable& kernels() {
    const KernelTable* table = selected.load(std::memory_order_relaxed);
    if (table == nullptr) {
        const KernelTable* tables[kMaxTables];
        supported_tables(tables);
        table = tables[0];
        selected.store(table, std::memory_order_relaxed);
    }
    return *table;
}

bool select_table(const char* isa) {
    const KernelTable* tables[kMaxTables];
    const int count = supported_tables(tables);
    for (int i = 0; i < count; ++i) {
        if (strcmp(tables[i]->isa, isa) == 0) {
            selected.store(tables[i], std::memory_order_relaxed);
            return true;
        }
    }
    return false;
}

}  // namespace pagecli
