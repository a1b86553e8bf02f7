// A race detector for emulated kernels. The compiler's -fsanitize=thread calls a function at every load and store; these are
// those functions, without ThreadSanitizer's library. Each two bytes of memory remember who touched them last and between which
// barriers (the happens-before rule of FastTrack, Flanagan and Freund 2009, cut down to barriers). Blocks have no order at all.
#include <stdint.h>

#include <memory>
#include <unordered_map>

#include "machine.h"

namespace simt {
namespace {

struct Access {
    uint32_t launch = 0;
    bool many = false;  // reads by several threads since the last write
    Moment moment = {};
};
struct Cell {
    Access write, read;
};

// Cells of earlier launches count as new.
constexpr uintptr_t kCellsInPage = 2048, kRecentPages = 64;
using Page = std::unique_ptr<Cell[]>;

struct RecentPage {
    uintptr_t number;
    Cell* cells;
} recent[kRecentPages];  // a kernel has a few arrays

Cell* page_of(uintptr_t number) {
    static auto& pages = *new std::unordered_map<uintptr_t, Page>;  // never destroyed: memory is given back at the very end
    Page& page = pages[number];
    if (page == nullptr) page = std::make_unique<Cell[]>(kCellsInPage);
    return page.get();
}

Cell& cell_at(uintptr_t at) {
    const uintptr_t number = at / kCellsInPage;
    RecentPage& page = recent[number % kRecentPages];
    if (page.cells == nullptr || page.number != number) page = {number, page_of(number)};
    return page.cells[at % kCellsInPage];
}

bool before(const Moment& earlier, const Moment& later) {
    if (earlier.block != later.block) return false;
    if (earlier.thread == later.thread || earlier.block_epoch < later.block_epoch) return true;
    return earlier.thread / kWarpSize == later.thread / kWarpSize && earlier.warp_epoch < later.warp_epoch;
}

[[noreturn]] void report(const char* what, const Moment& first, const Moment& second, uintptr_t address) {
    fail("race: %s by thread %u of block %u and thread %u of block %u at %#lx, no barrier between", what, first.thread,
         first.block - 1, second.thread, second.block - 1, static_cast<unsigned long>(address));
}

void note(const void* pointer, size_t bytes, bool writes) {
    if (!running() || on_fiber_stack(pointer)) return;
    const uint32_t launch = launch_number();
    const Moment moment = now();
    const uintptr_t first = reinterpret_cast<uintptr_t>(pointer) / 2,
                    end = (reinterpret_cast<uintptr_t>(pointer) + bytes + 1) / 2;
    for (uintptr_t at = first; at < end; ++at) {
        Cell& cell = cell_at(at);
        if (cell.write.launch == launch && !before(cell.write.moment, moment))
            report(writes ? "written twice" : "written, then read", cell.write.moment, moment, 2 * at);
        if (writes) {
            if (cell.read.launch == launch) {
                // Of several readers only the last is known: another block epoch is needed then, or a warp epoch of its warp.
                Moment reader = cell.read.moment;
                if (cell.read.many && reader.thread == moment.thread) reader.thread ^= 1;
                if (!before(reader, moment)) report("read, then written", reader, moment, 2 * at);
            }
            cell.write = {launch, false, moment};
            cell.read = {};
        } else {
            const bool alone = cell.read.launch != launch || (!cell.read.many && before(cell.read.moment, moment));
            const bool after_all = cell.read.moment.block == moment.block && cell.read.moment.block_epoch < moment.block_epoch;
            cell.read = {launch, !alone && !after_all, moment};
        }
    }
}

}  // namespace

void note_read(const void* address, size_t bytes) { note(address, bytes, false); }
void note_write(const void* address, size_t bytes) { note(address, bytes, true); }

void forget(const void* address, size_t bytes) {
    const uintptr_t first = reinterpret_cast<uintptr_t>(address) / 2;
    for (uintptr_t at = first; at < first + (bytes + 1) / 2; ++at) cell_at(at) = {};
}

}  // namespace simt

extern "C" {
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
#define SIMT_LISTEN(size)                                                               \
    void __tsan_read##size(void* address) { simt::note_read(address, size); }           \
    void __tsan_write##size(void* address) { simt::note_write(address, size); }         \
    void __tsan_unaligned_read##size(void* address) { simt::note_read(address, size); } \
    void __tsan_unaligned_write##size(void* address) { simt::note_write(address, size); }
SIMT_LISTEN(1)
SIMT_LISTEN(2)
SIMT_LISTEN(4)
SIMT_LISTEN(8)
SIMT_LISTEN(16)
void __tsan_read_range(void* address, unsigned long bytes) { simt::note_read(address, bytes); }
void __tsan_write_range(void* address, unsigned long bytes) { simt::note_write(address, bytes); }
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
}
