// Chosen by the processor, once.
#include "pagecli/pair_products.h"

#include <atomic>

namespace pagecli {
namespace {

bool are_faster_widened() {
#if defined(__x86_64__)
    return __builtin_cpu_is("intel") != 0;
#else
    return false;
#endif
}

std::atomic<bool>& chosen() {
    static std::atomic<bool> widened{are_faster_widened()};
    return widened;
}

}  // namespace

bool pairs_are_widened() { return chosen().load(std::memory_order_relaxed); }

void widen_pairs(bool widened) { chosen().store(widened, std::memory_order_relaxed); }

}  // namespace pagecli
