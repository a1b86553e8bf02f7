// One thread of a kernel as a fiber: a stack of its own, entered and left by name. Nothing runs at the same time as anything
// else.
#pragma once

#include <stddef.h>

namespace simt {

class Fiber {
 public:
    static constexpr size_t kStackBytes = 256 * 1024;

    Fiber();  // runs nothing yet
    ~Fiber();
    Fiber(const Fiber&) = delete;
    Fiber& operator=(const Fiber&) = delete;

    // Prepare to run entry(argument), which must never return: it ends by leaving for good. What ran before is forgotten.
    void start(void (*entry)(void*), void* argument);
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
    size_t unused_;  // at the stack's top
};

}  // namespace simt
