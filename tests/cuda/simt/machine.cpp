// The scheduler of fibers: see machine.h.
#include "machine.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "fiber.h"

namespace simt {

Place place;

namespace {

enum class State { ready, at_barrier, at_meeting, ended };

struct Copy {
    void* target;
    const void* source;
    size_t bytes, source_bytes;
};

void run_thread(void* thread);

struct Thread {
    Fiber fiber{run_thread, this};
    State state = State::ended;
    Site file = "";
    int line = 0;
    unsigned index = 0;
    alignas(16) unsigned char exchange[2][64];
    unsigned meetings = 0;
    std::vector<Copy> open;                 // not yet in a group
    std::vector<std::vector<Copy>> groups;  // committed, oldest first
};

struct FreeMemory {
    size_t bytes = 0;
    void operator()(void* memory) const {
        forget(memory, bytes);
        ::operator delete(memory, std::align_val_t(16));
    }
};
using Memory = std::unique_ptr<void, FreeMemory>;

struct Machine {
    std::vector<std::unique_ptr<Thread>> threads;
    std::vector<uint32_t> warp_epochs, warp_arrived;  // of each warp; lanes that wait for the others
    std::map<const void*, Memory> arrays;
    Memory dynamic;
    const std::function<void()>* kernel = nullptr;
    Thread* current = nullptr;
    unsigned num_threads = 0;
    uint32_t block_number = 0, block_epoch = 0, launches = 0;
    bool running = false, failed = false;
    std::string fault;
    Order order = Order::forward;
    std::mt19937 random;
} machine;

Memory poisoned(size_t bytes) {
    Memory memory(::operator new(bytes, std::align_val_t(16)), FreeMemory{bytes});
    memset(memory.get(), 0xff, bytes);
    return memory;
}

void run_thread(void* argument) {
    auto* self = static_cast<Thread*>(argument);
    for (;;) {  // a block after the other: their stacks stay in the caches, and nothing on them is left poisoned
        (*machine.kernel)();
        if (!self->open.empty() || !self->groups.empty()) fail("cp.async copies were started and never waited for");
        self->state = State::ended;
        self->fiber.leave();
    }
}

void wait_as(State state, Site file, int line) {
    Thread* self = machine.current;
    self->state = state;
    self->file = file;
    self->line = line;
    self->fiber.leave();
}

void resume(Thread& thread) {
    machine.current = &thread;
    place.thread = {thread.index, 0, 0};
    thread.fiber.enter();
    if (machine.failed) throw Fault(machine.fault);
}

std::string describe(const Thread& thread) {
    char text[300];
    const char* name = strrchr(thread.file, '/');
    const char* what = thread.state == State::ended        ? "has ended"
                       : thread.state == State::at_barrier ? "waits at barrier"
                                                           : "waits for its warp at";
    if (thread.state == State::ended) {
        snprintf(text, sizeof text, "thread %u has ended", thread.index);
    } else {
        snprintf(text, sizeof text, "thread %u %s %s:%d", thread.index, what, name ? name + 1 : thread.file, thread.line);
    }
    return text;
}

// Nothing can run: either all threads stand at one barrier, which opens, or the kernel is wrong.
void open_barrier() {
    Thread& first = *machine.threads[0];
    for (unsigned i = 0; i < machine.num_threads; ++i) {
        const Thread& thread = *machine.threads[i];
        if (thread.state != State::at_barrier || thread.file != first.file || thread.line != first.line)
            throw Fault("threads of a block part: " + describe(first) + ", " + describe(thread));
    }
    for (unsigned i = 0; i < machine.num_threads; ++i) machine.threads[i]->state = State::ready;
    ++machine.block_epoch;
}

void run_block(std::vector<unsigned>& order) {
    for (unsigned i = 0; i < machine.num_threads; ++i) {
        Thread& thread = *machine.threads[i];
        thread.index = i;
        thread.state = State::ready;
        thread.meetings = 0;
    }
    machine.warp_arrived.assign(machine.num_threads / kWarpSize, 0);
    for (;;) {
        if (machine.order == Order::shuffled) std::shuffle(order.begin(), order.end(), machine.random);
        bool ran = false;
        unsigned ended = 0;
        for (const unsigned i : order) {
            Thread& thread = *machine.threads[i];
            if (thread.state == State::ready) {
                resume(thread);
                ran = true;
            }
            ended += thread.state == State::ended;
        }
        if (ended == machine.num_threads) return;
        if (!ran) open_barrier();
    }
}

struct Running {  // the launch's state is put away however it ends
    ~Running() {
        machine.running = false;
        machine.arrays.clear();
        machine.dynamic.reset();
        machine.current = nullptr;
    }
};

}  // namespace

void set_order(Order order, uint32_t seed) {
    machine.order = order;
    machine.random.seed(seed);
}

// Shared memory of compute capability 8.6: of a block, of a multiprocessor, and what the system keeps of it for each block.
constexpr size_t kBlockBytes = 99 * 1024, kMultiprocessorBytes = 100 * 1024, kReservedBytes = 1024;

void launch(Index3 grid, unsigned block_threads, size_t shared_bytes, const std::function<void()>& kernel) {
    if (block_threads == 0 || block_threads > 1024 || block_threads % kWarpSize != 0)
        throw Fault("a block needs a multiple of 32 threads, at most 1024");
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > 65535 || grid.z > 65535)
        throw Fault("invalid configuration: the grid is empty or too large");
    if (shared_bytes > kBlockBytes) throw Fault("more shared memory than a block may have");
    while (machine.threads.size() < block_threads) machine.threads.push_back(std::make_unique<Thread>());
    Running running;
    machine.kernel = &kernel;
    machine.num_threads = block_threads;
    machine.running = true;
    machine.failed = false;
    machine.block_number = 0;
    ++machine.launches;
    place.block_dim = {block_threads, 1, 1};
    place.grid_dim = grid;
    std::vector<unsigned> order(block_threads);
    std::iota(order.begin(), order.end(), 0u);
    if (machine.order == Order::backward) std::reverse(order.begin(), order.end());
    for (unsigned z = 0; z < grid.z; ++z)
        for (unsigned y = 0; y < grid.y; ++y)
            for (unsigned x = 0; x < grid.x; ++x) {
                place.block = {x, y, z};
                machine.arrays.clear();
                machine.dynamic = poisoned(shared_bytes);
                machine.warp_epochs.assign(block_threads / kWarpSize, 0);
                machine.block_epoch = 0;
                ++machine.block_number;
                try {
                    run_block(order);
                } catch (...) {
                    machine.threads.clear();  // fibers that will never end
                    throw;
                }
            }
}

int resident_blocks(size_t shared_bytes) {
    return static_cast<int>(kMultiprocessorBytes / (shared_bytes + kReservedBytes));
}

void* dynamic_shared() { return machine.dynamic.get(); }

void* shared_array(const void* key, size_t bytes) {
    Memory& memory = machine.arrays[key];
    if (memory == nullptr) memory = poisoned(bytes);
    return memory.get();
}

void block_barrier(Site file, int line) { wait_as(State::at_barrier, file, line); }

unsigned lane() { return machine.current->index % kWarpSize; }

void warp_meet(const void* value, size_t bytes, bool orders_memory, Site file, int line) {
    Thread* self = machine.current;
    ++self->meetings;
    if (bytes > 0) memcpy(self->exchange[self->meetings % 2], value, bytes);
    self->state = State::at_meeting;
    self->file = file;
    self->line = line;
    unsigned& arrived = machine.warp_arrived[self->index / kWarpSize];
    if (++arrived < kWarpSize) return self->fiber.leave();
    arrived = 0;
    const unsigned first = self->index / kWarpSize * kWarpSize;
    for (unsigned i = first; i < first + kWarpSize; ++i) {
        Thread& other = *machine.threads[i];
        if (other.file != self->file || other.line != self->line)
            fail("lanes of a warp part: %s, %s", describe(*self).c_str(), describe(other).c_str());
        other.state = State::ready;
    }
    if (orders_memory) ++machine.warp_epochs[first / kWarpSize];
}

const void* from_lane(unsigned source) {
    const Thread* self = machine.current;
    const Thread& other = *machine.threads[self->index / kWarpSize * kWarpSize + source % kWarpSize];
    return other.exchange[self->meetings % 2];
}

void copy_async(void* shared, const void* global, size_t bytes, size_t source_bytes) {
    note_read(global, source_bytes);
    note_write(shared, bytes);
    memset(shared, 0xff, bytes);
    machine.current->open.push_back({shared, global, bytes, source_bytes});
}

void commit_copies() {
    machine.current->groups.push_back(std::move(machine.current->open));
    machine.current->open.clear();
}

// As late as it may be: what is read before the wait is still poison.
void wait_for_copies(unsigned groups_left) {
    auto& groups = machine.current->groups;
    while (groups.size() > groups_left) {
        for (const Copy& copy : groups.front()) {
            note_write(copy.target, copy.bytes);
            memcpy(copy.target, copy.source, copy.source_bytes);
            memset(static_cast<char*>(copy.target) + copy.source_bytes, 0, copy.bytes - copy.source_bytes);
        }
        groups.erase(groups.begin());
    }
}

Moment now() {
    const Thread* self = machine.current;
    return {machine.block_number, self->index, machine.block_epoch, machine.warp_epochs[self->index / kWarpSize]};
}

bool running() { return machine.running && machine.current != nullptr; }
bool on_fiber_stack(const void* address) { return machine.current->fiber.holds(address); }
uint32_t launch_number() { return machine.launches; }

void fail(const char* format, ...) {
    char text[700];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    machine.fault = text;
    machine.failed = true;
    machine.current->fiber.leave();
    abort();
}

}  // namespace simt
