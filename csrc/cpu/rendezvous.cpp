#include "pagecli/rendezvous.h"

#include <sched.h>
#include <time.h>

namespace pagecli {
namespace {

constexpr int kSpins = 2000;  // about 30 microseconds: ranks mostly come within that; then others may use the core
constexpr double kAwaySeconds = 1.0;  // between two looks: this process was stopped, which is no time that another needed

double now() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

}  // namespace

bool Rendezvous::meet() {
    if (failed()) return false;
    ++arrived;
    __atomic_store_n(words + rank * kWordsPerRank, arrived, __ATOMIC_RELEASE);
    const uint32_t* released = words + ranks * kWordsPerRank;
    double begun = 0.0, looked = 0.0, away = 0.0;
    for (int other = 0; other < ranks; ++other) {
        const uint32_t* word = words + other * kWordsPerRank;
        for (int spins = 0; static_cast<int32_t>(__atomic_load_n(word, __ATOMIC_ACQUIRE) - arrived) < 0; ++spins) {
            if (spins < kSpins) {
                pause();
                continue;
            }
            const double time = now();
            if (begun == 0.0) begun = looked = time;
            if (time - looked > kAwaySeconds) away += time - looked;
            looked = time;
            if (__atomic_load_n(released, __ATOMIC_RELAXED) != 0 || time - begun - away > timeout_seconds) {
                missing = other;
                return false;
            }
            sched_yield();
        }
    }
    if (begun != 0.0) waited_seconds += now() - begun - away;
    return true;
}

}  // namespace pagecli
