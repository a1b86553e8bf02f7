// Kernels with one fault each, and what they would be without it: the tests show that the emulator finds them.
#include <nanobind/nanobind.h>

#include "../../../csrc/bindings/tensors/check.h"
#include "../../../csrc/cuda/device/launch.h"
#include "../../../csrc/cuda/device/reduce.h"
#include "machine.h"

namespace nb = nanobind;

namespace {

using pagecli::TensorView;

// out[i] = x[63 - i], through shared memory.
__global__ void reverse_kernel(float* out, const float* x, int past_end, bool has_barrier) {
    PAGECLI_SHARED_ARRAY(float, held, 64);
    const int i = static_cast<int>(threadIdx.x);
    held[i + past_end] = x[i];
    if (has_barrier) __syncthreads();
    out[i] = held[63 - i];
}

// out[i] = x[i], but for the last `skipped`.
__global__ void copy_kernel(float* out, const float* x, int skipped) {
    const int i = static_cast<int>(threadIdx.x);
    if (i < 64 - skipped) out[i] = x[i];
}

// A barrier that only half of the threads reach.
__global__ void part_kernel(float* out, const float* x) {
    const int i = static_cast<int>(threadIdx.x);
    if (i < 32) __syncthreads();
    out[i] = x[i];
}

// A copy read before it is waited for, or never waited for; the warp passes it on with or without __syncwarp.
__global__ void async_kernel(float* out, const float* x, bool waits, bool syncs) {
    auto* held = static_cast<float*>(pagecli::cuda::ptx::dynamic_shared());
    const int i = static_cast<int>(threadIdx.x);
    if (i < 8) pagecli::cuda::ptx::copy_async_16(held + 4 * i, x + 4 * i);
    pagecli::cuda::ptx::commit_copies();
    if (waits) pagecli::cuda::ptx::wait_for_copies<0>();
    if (syncs) __syncwarp();
    out[i] = held[31 - i];
    pagecli::cuda::ptx::wait_for_copies<0>();
}

// Blocks that add into one place: an atomic may, a plain sum is a race between blocks.
__global__ void count_kernel(float* out, bool atomic) {
    if (threadIdx.x != 0) return;
    if (atomic) {
        atomicAdd(out, 1.0f);
    } else {
        *out = *out + 1.0f;
    }
}

void run(const char* which, const TensorView& out, const TensorView& x) {
    using pagecli::cuda::launch;
    pagecli::check(out, "out", pagecli::DType::float32, {64});
    pagecli::check(x, "x", pagecli::DType::float32, {64});
    float* to = out.as<float>();
    const float* from = x.as<const float>();
    const std::string_view name = which;
    const pagecli::cuda::LaunchShape block = {1, 1, 1, 64, nullptr}, warp = {1, 1, 1, 32, nullptr};
    if (name == "reverse") launch<reverse_kernel>(block, to, from, 0, true);
    if (name == "write past the end") launch<reverse_kernel>(block, to, from, 1, true);
    if (name == "missing barrier") launch<reverse_kernel>(block, to, from, 0, false);
    if (name == "copy") launch<copy_kernel>(block, to, from, 0);
    if (name == "unwritten output") launch<copy_kernel>(block, to, from, 1);
    if (name == "barrier for half") launch<part_kernel>(block, to, from);
    if (name == "async") launch<async_kernel, 128>(warp, to, from, true, true);
    if (name == "async without wait") launch<async_kernel, 128>(warp, to, from, false, true);
    if (name == "async without sync") launch<async_kernel, 128>(warp, to, from, true, false);
    if (name == "atomic count") launch<count_kernel>({4, 1, 1, 32, nullptr}, to, true);
    if (name == "racing count") launch<count_kernel>({4, 1, 1, 32, nullptr}, to, false);
}

void set_order(const char* name, uint32_t seed) {
    const std::string_view order = name;
    simt::set_order(order == "backward"   ? simt::Order::backward
                    : order == "shuffled" ? simt::Order::shuffled
                                          : simt::Order::forward,
                    seed);
}

}  // namespace

void bind_emulator(nb::module_& module) {
    module.def("run_planted", run);
    module.def("set_thread_order", set_order);
    module.attr("sanitized") =
#if defined(__SANITIZE_ADDRESS__)
        true;
#else
        false;
#endif
}
