// The one place that launches a kernel: launch<kernel>({grid, threads, shared_bytes, stream}, arguments...).
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "pagecli/cuda/device.h"
#include "platform.h"

namespace pagecli::cuda {

struct LaunchShape {
    int64_t grid_x, grid_y, grid_z;
    int threads;
    size_t shared_bytes;
    Stream stream;
};

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

#if defined(PAGECLI_SIMT)

template <auto kKernel, class... Arguments>
void launch(const LaunchShape& shape, const Arguments&... arguments) {
    const simt::Index3 grid = {static_cast<unsigned>(shape.grid_x), static_cast<unsigned>(shape.grid_y),
                               static_cast<unsigned>(shape.grid_z)};
    simt::launch(grid, static_cast<unsigned>(shape.threads), shape.shared_bytes, [&] { kKernel(arguments...); });
}

#else

inline void require_success(cudaError_t error, const char* doing) {
    if (error == cudaSuccess) return;
    cudaGetLastError();  // launches that fail at once leave it behind; a broken context answers every call with it
    throw_device_error(doing, cudaGetErrorName(error), cudaGetErrorString(error));
}

// A block has 48 KiB of shared memory at hand; more has to be asked for, once for each kernel and device.
template <auto kKernel>
void allow_shared_bytes(size_t bytes) {
    constexpr int kMaxDevices = 64;
    static size_t allowed[kMaxDevices] = {};
    if (bytes <= 48 * 1024) return;
    int device = 0;
    require_success(cudaGetDevice(&device), "asking for the current device");
    if (device < kMaxDevices && bytes <= allowed[device]) return;
    require_success(cudaFuncSetAttribute(kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
                    "asking for shared memory");
    if (device < kMaxDevices) allowed[device] = bytes;
}

template <auto kKernel, class... Arguments>
void launch(const LaunchShape& shape, const Arguments&... arguments) {
    allow_shared_bytes<kKernel>(shape.shared_bytes);
    cudaLaunchConfig_t config = {};
    config.gridDim =
        dim3(static_cast<unsigned>(shape.grid_x), static_cast<unsigned>(shape.grid_y), static_cast<unsigned>(shape.grid_z));
    config.blockDim = dim3(static_cast<unsigned>(shape.threads));
    config.dynamicSmemBytes = shape.shared_bytes;
    config.stream = static_cast<cudaStream_t>(shape.stream);
    require_success(cudaLaunchKernelEx(&config, kKernel, arguments...), "launching a kernel");
}

#endif

}  // namespace pagecli::cuda
