// The one place that launches a kernel: launch<kernel, shared bytes>({grid, threads, stream}, arguments...).
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "pagecli/cuda/device.h"
#include "platform.h"

namespace pagecli::cuda {

struct LaunchShape {
    int64_t grid_x, grid_y, grid_z;
    int threads;
    Stream stream;
};

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Threads for so many units of work, in whole warps, `most` at most.
inline int whole_warps(int64_t units, int most) {
    return static_cast<int>(units >= most ? most : divide_up(units, kWarp) * kWarp);
}

// The most shared memory that a thread block may ask for on every GPU from compute capability 8.0 on: 99 KiB, of 8.6, 8.9 and
// 12.0; 8.0 allows 163, 9.0 and 10.0 allow 227 (CUDA C++ Programming Guide, "Technical Specifications per Compute Capability").
constexpr size_t kMaxSharedBytes = 99 * 1024;

#if defined(PAGECLI_SIMT)

// Blocks of kKernel that a multiprocessor of the current device runs at once.
template <auto kKernel, size_t kSharedBytes>
int resident_blocks(int) {
    return simt::resident_blocks(kSharedBytes);
}

template <auto kKernel, size_t kSharedBytes = 0, class... Arguments>
void launch(const LaunchShape& shape, const Arguments&... arguments) {
    static_assert(kSharedBytes <= kMaxSharedBytes);
    const simt::Index3 grid = {static_cast<unsigned>(shape.grid_x), static_cast<unsigned>(shape.grid_y),
                               static_cast<unsigned>(shape.grid_z)};
    simt::launch(grid, static_cast<unsigned>(shape.threads), kSharedBytes, [&] { kKernel(arguments...); });
}

#else

inline void require_success(cudaError_t error, const char* doing) {
    if (error == cudaSuccess) return;
    cudaGetLastError();  // launches that fail at once leave it behind; a broken context answers every call with it
    throw_device_error(doing, cudaGetErrorName(error), cudaGetErrorString(error));
}

// A block has 48 KiB of shared memory at hand; more has to be asked for, once for each kernel and device. The name of `allowed`
// in an object file says what a kernel asks for (tests/cuda/test_cuda_resources.py).
template <auto kKernel, size_t kSharedBytes>
void allow_shared_bytes() {
    static_assert(kSharedBytes <= kMaxSharedBytes);
    constexpr int kMaxDevices = 64;
    [[gnu::used]] static bool allowed[kMaxDevices] = {};
    if (kSharedBytes <= 48 * 1024) return;
    int device = 0;
    require_success(cudaGetDevice(&device), "asking for the current device");
    if (device < kMaxDevices && allowed[device]) return;
    require_success(cudaFuncSetAttribute(kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(kSharedBytes)),
                    "asking for shared memory");
    if (device < kMaxDevices) allowed[device] = true;
}

// Blocks of kKernel that a multiprocessor of the current device runs at once.
template <auto kKernel, size_t kSharedBytes>
int resident_blocks(int threads) {
    allow_shared_bytes<kKernel, kSharedBytes>();
    int blocks = 0;
    require_success(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kKernel, threads, kSharedBytes),
                    "asking how many blocks run at once");
    return blocks;
}

template <auto kKernel, size_t kSharedBytes = 0, class... Arguments>
void launch(const LaunchShape& shape, const Arguments&... arguments) {
    allow_shared_bytes<kKernel, kSharedBytes>();
    cudaLaunchConfig_t config = {};
    config.gridDim =
        dim3(static_cast<unsigned>(shape.grid_x), static_cast<unsigned>(shape.grid_y), static_cast<unsigned>(shape.grid_z));
    config.blockDim = dim3(static_cast<unsigned>(shape.threads));
    config.dynamicSmemBytes = kSharedBytes;
    config.stream = static_cast<cudaStream_t>(shape.stream);
    require_success(cudaLaunchKernelEx(&config, kKernel, arguments...), "launching a kernel");
}

#endif

}  // namespace pagecli::cuda
