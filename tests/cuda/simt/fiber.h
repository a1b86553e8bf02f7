// One thread of a kernel as a fiber: a stack of its own, entered and left by name. Nothing runs at the same time as anything
// else.
#pragma once

#include <stddef.h>

namespace simt {

class Fiber {
 public:
    static constexpr size_t kStackBytes = 256 * 1024;

    // Will run entry(argument), which must never return.
    Fiber(void (*entry)(void*), void* argument);
    ~Fiber();
    Fiber(const Fiber&) = delete;
    Fiber& operator=(const Fiber&) = delete;

    // From the scheduler: run this fiber until it calls leave().
    void enter();
    // From inside this fiber: go back to enter()'s caller.
    void leave();
    bool holds(const void* address) const;

 private:
    struct Machine;
    static void trampoline();
    Machine* machine_;
    char* stack_;
};

}  // namespace simt
