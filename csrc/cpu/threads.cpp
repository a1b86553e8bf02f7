// The team. A job is published in one atomic word, claimed piece by piece, and finished when every piece is:
//
//   state = generation << 32 | pieces not yet claimed
//
// A claim takes one piece off by compare-and-swap; the generation in the word makes a late thread's claim on an older job fail.
// Only a thread that has claimed a piece reads the job, and the job stays as it is until that piece is done.
#include "pagecli/threads.h"

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

namespace pagecli {
namespace {

constexpr uint64_t kUnclaimed = 0xffffffffu;
constexpr int kSpins = 3000;  // about 50 microseconds: longer than the gaps between a step's operations

void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

class Team {
   public:
    void run(int64_t pieces, PieceFunction function, const void* context, int threads) {
        while (num_workers_ < threads - 1) start_worker();
        pieces_ = pieces;
        function_ = function;
        context_ = context;
        finished_.store(0, std::memory_order_relaxed);
        const uint64_t generation = (state_.load(std::memory_order_relaxed) >> 32) + 1;
        state_.store(generation << 32 | static_cast<uint64_t>(pieces));
        if (num_sleeping_.load() > 0) {
            { const std::lock_guard<std::mutex> lock(mutex_); }
            wake_.notify_all();
        }
        while (work()) {
        }
        for (int spins = 0; finished_.load(std::memory_order_acquire) != pieces; ++spins) {
            if (spins < kSpins)
                pause();
            else
                sched_yield();
        }
    }

    std::atomic_flag busy = ATOMIC_FLAG_INIT;

   private:
    // Claims a piece and does it; false if none is left.
    bool work() {
        uint64_t state = state_.load(std::memory_order_acquire);
        do {
            if ((state & kUnclaimed) == 0) return false;
        } while (!state_.compare_exchange_weak(state, state - 1, std::memory_order_acq_rel, std::memory_order_acquire));
        function_(context_, pieces_ - static_cast<int64_t>(state & kUnclaimed));
        finished_.fetch_add(1, std::memory_order_release);
        return true;
    }

    void start_worker() {
        const int index = ++num_workers_;
        std::thread([this, index] { work_for_ever(index); }).detach();
    }

    // Worker `index` sits out while set_max_threads allows fewer than index + 1 threads.
    void work_for_ever(int index) {
        for (;;) {
            for (int spins = 0; spins < kSpins; ++spins) {
                if (index < max_threads() && work())
                    spins = 0;
                else
                    pause();
            }
            std::unique_lock<std::mutex> lock(mutex_);
            num_sleeping_.fetch_add(1);
            wake_.wait(lock, [this, index] { return index < max_threads() && (state_.load() & kUnclaimed) != 0; });
            num_sleeping_.fetch_sub(1);
        }
    }

    std::atomic<uint64_t> state_{0};
    std::atomic<int64_t> finished_{0};
    std::atomic<int> num_sleeping_{0};
    int64_t pieces_ = 0;
    PieceFunction function_ = nullptr;
    const void* context_ = nullptr;
    int num_workers_ = 0;
    std::mutex mutex_;
    std::condition_variable wake_;
};

// Never deleted: its threads end with the process. After fork() the child has none of them and gets a new one.
Team* team = nullptr;
std::once_flag team_made;
std::atomic<int> thread_limit{0};  // 0: not set yet

void make_team() { team = new Team; }

int usable_cpus() {
    cpu_set_t set;
    const int count = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
    return count > 0 ? count : 1;
}

}  // namespace

int max_threads() {
    int count = thread_limit.load(std::memory_order_relaxed);
    if (count == 0) {
        count = usable_cpus();
        thread_limit.store(count, std::memory_order_relaxed);
    }
    return count;
}

void set_max_threads(int count) { thread_limit.store(count, std::memory_order_relaxed); }

void run_pieces(int64_t pieces, PieceFunction function, const void* context) {
    const int threads = max_threads();
    if (pieces > 1 && threads > 1 && pieces < static_cast<int64_t>(kUnclaimed)) {
        std::call_once(team_made, [] {
            make_team();
            pthread_atfork(nullptr, nullptr, make_team);
        });
        if (!team->busy.test_and_set(std::memory_order_acquire)) {
            team->run(pieces, function, context, threads);
            team->busy.clear(std::memory_order_release);
            return;
        }
    }
    for (int64_t piece = 0; piece < pieces; ++piece) function(context, piece);
}

}  // namespace pagecli
