// What a kernel's source needs of its platform: CUDA's words and the instructions of ptx.h, from nvcc, or from the emulator
// that the tests compile the same files with (tests/cuda/simt).
#pragma once

#if defined(PAGECLI_SIMT)
#include "simt/device.h"
#else
#include <cuda_runtime.h>

#include "ptx.h"
// An array in shared memory, one for each block that runs.
#define PAGECLI_SHARED_ARRAY(type, name, count) __shared__ type name[count]
#endif

namespace pagecli::cuda {

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kWarp = 32;

}  // namespace pagecli::cuda
