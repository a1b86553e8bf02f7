// Switching stacks by hand on x86-64: ucontext makes two system calls a switch, and a kernel switches millions of times.
#include "fiber.h"

#include <stdint.h>
#include <sys/mman.h>

#include <cstdlib>
#include <new>

#if !defined(__x86_64__) || defined(SIMT_UCONTEXT)
#include <ucontext.h>
#define SIMT_USES_UCONTEXT
#endif

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if !defined(SIMT_USES_UCONTEXT)
// simt_switch(save, restore): keep what a call must preserve, swap stack pointers, return on the other stack.
asm(R"(
.text
.globl simt_switch
.hidden simt_switch
.type simt_switch, @function
simt_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size simt_switch, .-simt_switch
)");
extern "C" void simt_switch(void** save, void* restore);
#endif

namespace simt {

struct Fiber::Machine {
#if defined(SIMT_USES_UCONTEXT)
    ucontext_t inside, outside;
#else
    void *inside = nullptr, *outside = nullptr;
#endif
    void (*entry)(void*) = nullptr;
    void* argument = nullptr;
    void *fake_inside = nullptr, *fake_outside = nullptr;  // AddressSanitizer's own frames
    const void* outside_stack = nullptr;
    size_t outside_bytes = 0;
};

namespace {
Fiber* entering = nullptr;

// Stacks begin at multiples of a page: what is at the top of each would have the same few sets of the cache as all others'.
constexpr size_t kStep = 5 * 64, kSteps = 101;
size_t num_made = 0;
}  // namespace

Fiber::Fiber(void (*entry)(void*), void* argument) : machine_(new Machine) {
    void* memory = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    stack_ = static_cast<char*>(memory);
    const size_t unused = num_made++ % kSteps * kStep;
    Machine& m = *machine_;
    m.entry = entry;
    m.argument = argument;
#if defined(SIMT_USES_UCONTEXT)
    getcontext(&m.inside);
    m.inside.uc_stack.ss_sp = stack_;
    m.inside.uc_stack.ss_size = kStackBytes - unused;
    m.inside.uc_link = nullptr;
    makecontext(&m.inside, trampoline, 0);
#else
    // From the top: one word so that the stack is aligned as after a call, the address `ret` takes, six registers, all 0.
    void** top = reinterpret_cast<void**>(stack_ + kStackBytes - unused) - 8;
    top[6] = reinterpret_cast<void*>(&Fiber::trampoline);
    m.inside = top;
#endif
}

Fiber::~Fiber() {
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(stack_, kStackBytes);
#endif
    munmap(stack_, kStackBytes);
    delete machine_;
}

bool Fiber::holds(const void* address) const { return address >= stack_ && address < stack_ + kStackBytes; }

void Fiber::trampoline() {
    Fiber* self = entering;
#if defined(__SANITIZE_ADDRESS__)
    Machine& m = *self->machine_;
    __sanitizer_finish_switch_fiber(nullptr, &m.outside_stack, &m.outside_bytes);
#endif
    self->machine_->entry(self->machine_->argument);
    abort();
}

void Fiber::enter() {
    Machine& m = *machine_;
    entering = this;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&m.fake_outside, stack_, kStackBytes);
#endif
#if defined(SIMT_USES_UCONTEXT)
    swapcontext(&m.outside, &m.inside);
#else
    simt_switch(&m.outside, m.inside);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(m.fake_outside, nullptr, nullptr);
#endif
}

void Fiber::leave() {
    Machine& m = *machine_;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&m.fake_inside, m.outside_stack, m.outside_bytes);
#endif
#if defined(SIMT_USES_UCONTEXT)
    swapcontext(&m.inside, &m.outside);
#else
    simt_switch(&m.inside, m.outside);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(m.fake_inside, &m.outside_stack, &m.outside_bytes);
#endif
}

}  // namespace simt
