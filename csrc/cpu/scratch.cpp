// Per-thread scratch that only grows.
#include "scratch.h"

#include <memory>
#include <new>

namespace pagecli {
namespace {

constexpr std::align_val_t kAlignment{64};

struct Free {
    void operator()(void* p) const { ::operator delete(p, kAlignment); }
};

struct Scratch {
    std::unique_ptr<void, Free> data;
    int64_t bytes = 0;
};

thread_local Scratch scratches[5];  // by use

}  // namespace

void* thread_scratch(int64_t bytes, ScratchUse use) {
    Scratch& scratch = scratches[static_cast<int>(use)];
    if (bytes > scratch.bytes) {
        scratch.data.reset();
        scratch.bytes = 0;
        scratch.data.reset(::operator new(static_cast<size_t>(bytes), kAlignment));
        scratch.bytes = bytes;
    }
    return scratch.data.get();
}

}  // namespace pagecli
