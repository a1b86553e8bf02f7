// The extension module pagecli.devices.cuda._cuda. pagecli/devices/cuda/kernels.py gives each function its documented signature.
#include <nanobind/nanobind.h>

#include "bind.h"
#include "pagecli/cuda/device.h"

namespace nb = nanobind;

#if defined(PAGECLI_SIMT)
void bind_emulator(nb::module_& module);
#endif

NB_MODULE(_cuda, module) {
    using namespace pagecli;
    module.doc() = "pagecli's CUDA kernels";
#define CUDA_OPERATION(name, source) bind_##name(module);
#include "pagecli/operations.def"
    bind_attention_plan(module);
    module.def("num_devices", cuda::num_devices, "GPUs this process can use; 0 without a driver.");
    module.def("current_device", [] {
        const cuda::DeviceProperties device = cuda::current_device();
        nb::dict result;
        result["index"] = device.index;
        result["name"] = device.name;
        result["multiprocessors"] = device.multiprocessors;
        result["compute_capability"] = nb::make_tuple(device.compute_major, device.compute_minor);
        return result;
    });
#if defined(PAGECLI_SIMT)
    bind_emulator(module);
#endif
}
