// The machine that kernels run on in tests: blocks one after another, the threads of a block as fibers, each running until it
// must wait. Threads are taken forwards, backwards or shuffled (set_order), so that a result which hangs on the order shows.
//
// Found and reported as a Fault: threads waiting at different barriers, a barrier or warp operation that some never reach,
// cp.async copies never waited for, and, in the build with the race detector (race.cpp), two threads touching one address, one
// of them writing, with no barrier between. Out of bounds is AddressSanitizer's to find: every shared array is an allocation of
// its own, of exactly its size. Shared memory starts as 0xff bytes: NaN as a float, -1 as an integer.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <functional>
#include <stdexcept>

namespace simt {

struct Fault : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct Index3 {
    unsigned x = 0, y = 0, z = 0;
};

// What a kernel reads as threadIdx, blockIdx, blockDim and gridDim.
struct Place {
    Index3 thread, block, block_dim, grid_dim;
};
extern Place place;

enum class Order { forward, backward, shuffled };
void set_order(Order order, uint32_t seed = 0);

// Run `kernel` once for every thread of every block. Raises Fault.
void launch(Index3 grid, unsigned block_threads, size_t shared_bytes, const std::function<void()>& kernel);
int resident_blocks(size_t shared_bytes);  // of one multiprocessor, by its shared memory

// The block's memory of launch()'s shared_bytes, and a named array besides: the same memory for one `key` in all its threads.
void* dynamic_shared();
void* shared_array(const void* key, size_t bytes);

constexpr unsigned kWarpSize = 32;
using Site = const char*;

void block_barrier(Site file, int line);
// All lanes of the warp meet here; `value` (at most 64 bytes) is then readable from every lane until its next meeting.
void warp_meet(const void* value, size_t bytes, bool orders_memory, Site file, int line);
const void* from_lane(unsigned lane);
unsigned lane();

void copy_async(void* shared, const void* global, size_t bytes, size_t source_bytes);
void commit_copies();
void wait_for_copies(unsigned groups_left);

// The race detector's ears; they do nothing in the build without it.
void note_read(const void* address, size_t bytes);
void note_write(const void* address, size_t bytes);
void forget(const void* address, size_t bytes);  // memory about to be given back

struct Moment {  // who touches memory, and between which barriers
    uint32_t block, thread, block_epoch, warp_epoch;
};
Moment now();
bool running();
bool on_fiber_stack(const void* address);
uint32_t launch_number();

// Called inside a kernel: end the launch with this Fault.
[[noreturn]] void fail(const char* format, ...);

}  // namespace simt
