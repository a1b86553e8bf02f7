#include "pagecli/threads.h"

#include <omp.h>

#include <atomic>

namespace pagecli {
namespace {

std::atomic<int> threads{0};  // 0: not set yet

}  // namespace

int max_threads() {
    int count = threads.load(std::memory_order_relaxed);
    if (count == 0) {
        count = omp_get_max_threads();
        threads.store(count, std::memory_order_relaxed);
    }
    return count;
}

void set_max_threads(int count) { threads.store(count, std::memory_order_relaxed); }

}  // namespace pagecli
