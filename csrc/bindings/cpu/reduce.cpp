// Bindings of reduce, and of the meeting point of a tensor-parallel group's ranks.
#include "pagecli/elementwise/reduce.h"

#include <nanobind/stl/vector.h>

#include <vector>

#include "bind.h"
#include "recording.h"
#include "tensors/check.h"

namespace nb = nanobind;

namespace pagecli {
namespace {

void bound_reduce(const TensorView& out, const std::vector<TensorView>& parts, bool accumulate, Rendezvous* meeting,
                  RecordedProgram* program) {
    check(out, "out", DType::float32, {"tokens", "width"});
    if (parts.empty() || parts.size() > kMaxParts)
        refuse("parts: expected 1 to %d, got %lld", kMaxParts, static_cast<long long>(parts.size()));
    ReduceArgs args = {out.as<float>(), {}, 0, out.stride[0], out.shape[0], out.shape[1], accumulate, meeting};
    for (const TensorView& part : parts) {
        check_whole(part, "parts", DType::float32, {out.shape[0], out.shape[1]});
        args.parts[args.num_parts++] = part.as<const float>();
    }
    perform(args, reduce, program);
}

Rendezvous make_rendezvous(const TensorView& words, int rank, double timeout_seconds) {
    check_whole(words, "words", DType::int32, {"ranks + 1", kWordsPerRank});
    if (rank < 0 || rank >= words.shape[0] - 1) refuse("rank: expected one of the words' ranks, got %d", rank);
    return {words.as<uint32_t>(), rank, static_cast<int>(words.shape[0] - 1), timeout_seconds};
}

}  // namespace

void bind_reduce(nb::module_& module) {
    nb::class_<Rendezvous>(module, "Rendezvous")
        .def_ro("missing", &Rendezvous::missing)
        .def_ro("waited_seconds", &Rendezvous::waited_seconds)
        .def("meet", &Rendezvous::meet, nb::call_guard<nb::gil_scoped_release>());
    module.def("rendezvous", make_rendezvous, nb::arg("words"), nb::arg("rank"), nb::arg("timeout_seconds"));
    module.def("reduce", bound_reduce, nb::arg("out"), nb::arg("parts"), nb::arg("accumulate"), nb::arg("meeting").none(),
               nb::arg("program").none());
}

}  // namespace pagecli
