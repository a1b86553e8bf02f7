// The extension module pagecli.devices.cpu._native. pagecli/devices/cpu/kernels.py gives each function its documented signature.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <vector>

#include "bind.h"
#include "tensors/check.h"
#include "pagecli/isa.h"
#include "pagecli/pair_products.h"
#include "pagecli/threads.h"

namespace nb = nanobind;

namespace pagecli {
namespace {

std::vector<std::string> supported_isas() {
    const KernelTable* tables[kMaxTables];
    const int count = supported_tables(tables);
    std::vector<std::string> names;
    for (int i = 0; i < count; ++i) names.emplace_back(tables[i]->isa);
    return names;
}

void set_num_threads(int count) {
    if (count < 1) refuse("num_threads: expected 1 or more, got %d", count);
    set_max_threads(count);
}

#if defined(PAGECLI_SANITIZE)
// Lets a kernel write one element behind `tensor`, to show that the sanitizers see the kernels' memory accesses.
void write_past_end(const TensorView& tensor) {
    check(tensor, "tensor", DType::float32, {"dim"});
    float* data = tensor.as<float>();
    kernels().activation({data, data, 0, 0, 1, tensor.shape[0] + 1, Activation::relu});
}
#endif

}  // namespace
}  // namespace pagecli

NB_MODULE(_native, module) {
    using namespace pagecli;
    module.doc() = "pagecli's CPU kernels";
#define CPU_KERNEL(name, arguments, source) bind_##name(module);
#define CPU_FUNCTION(name, source) bind_##name(module);
#include "pagecli/operations.def"
    bind_layer_program(module);
    module.def("isa_name", [] { return kernels().isa; });
    module.def("supported_isas", supported_isas, "Instruction sets this build and machine have kernels for, best first.");
    module.def("widen_pairs", widen_pairs, "Multiply pairs of bfloat16 as floats, or by the instruction for them: the same bits.");
    module.def("pairs_are_widened", pairs_are_widened);
    module.def("select_isa", [](const char* isa) { return select_table(isa); }, "Use this instruction set; False if absent.");
    module.def("set_num_threads", set_num_threads);
    module.def("num_threads", [] { return max_threads(); });
#if defined(PAGECLI_SANITIZE)
    module.def("write_past_end", write_past_end);
#endif
}
