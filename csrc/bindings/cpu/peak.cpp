// Bindings of what measures the machine, for benchmarks.
#include <cstring>

#include "bind.h"
#include "pagecli/isa.h"
#include "tensors/check.h"

namespace nb = nanobind;

namespace pagecli {
namespace {

WeightType weight_type_named(const char* name) {
    if (strcmp(name, "float32") == 0) return WeightType::float32;
    if (strcmp(name, "bfloat16") == 0) return WeightType::bfloat16;
    if (strcmp(name, "int8") == 0) return WeightType::int8;
    if (strcmp(name, "int8-a16") == 0) return WeightType::int8_a16;
    refuse("dtype: expected float32, bfloat16, int8 or int8-a16, got %s", name);
}

// Operations done by multiply-adds of this type in registers, `pieces` pieces of work shared by all threads.
int64_t peak_operations(const char* dtype, int64_t pieces) {
    const WeightType type = weight_type_named(dtype);
    if (pieces < 1) refuse("pieces: expected 1 or more, got %lld", static_cast<long long>(pieces));
    int64_t operations = 0;
    nb::gil_scoped_release release;
    kernels().peak({type, pieces, &operations});
    return operations;
}

uint32_t read_memory(const TensorView& tensor) {
    check(tensor, "tensor", DType::int32, {"words"});
    uint32_t mixed = 0;
    nb::gil_scoped_release release;
    kernels().read_memory({tensor.data, tensor.shape[0] * 4, &mixed});
    return mixed;
}

}  // namespace

void bind_peak(nb::module_& module) { module.def("peak_operations", peak_operations); }
void bind_read_memory(nb::module_& module) { module.def("read_memory", read_memory); }

}  // namespace pagecli
