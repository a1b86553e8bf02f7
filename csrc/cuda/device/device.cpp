// Errors and properties of the device.
#include "pagecli/cuda/device.h"

#include <cstdio>

#if !defined(PAGECLI_SIMT)
#include <cuda_runtime_api.h>
#endif

namespace pagecli::cuda {

void throw_device_error(const char* doing, const char* name, const char* explanation) {
    char message[400];
    snprintf(message, sizeof message, "CUDA: %s failed: %s (%s)", doing, explanation, name);
    throw DeviceError(message);
}

#if defined(PAGECLI_SIMT)

int num_devices() { return 1; }

DeviceProperties current_device() { return {0, 4, 8, 6, "emulated on the CPU"}; }

#else

int num_devices() {
    int count = 0;
    return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

DeviceProperties current_device() {
    DeviceProperties result = {};
    cudaDeviceProp properties;
    cudaError_t error = cudaGetDevice(&result.index);
    if (error == cudaSuccess) error = cudaGetDeviceProperties(&properties, result.index);
    if (error != cudaSuccess) throw_device_error("asking for the GPU", cudaGetErrorName(error), cudaGetErrorString(error));
    result.multiprocessors = properties.multiProcessorCount;
    result.compute_major = properties.major;
    result.compute_minor = properties.minor;
    snprintf(result.name, sizeof result.name, "%s", properties.name);
    return result;
}

#endif

}  // namespace pagecli::cuda
