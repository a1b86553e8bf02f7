// Binding of what LoRA adapters add.
#include <utility>

#include "bind.h"
#include "device_tensor.h"
#include "pagecli/cuda/adapters/low_rank.h"

namespace nb = nanobind;

namespace pagecli {
namespace {

void low_rank(const TensorView& out, const TensorView& x, const TensorView& a, const TensorView& b, const TensorView& starts,
              const TensorView& tiles, const TensorView& inner) {
    const cuda::ElementType type = check_rows(x, "x", {"tokens", "k"});
    check_rows(out, "out", type, {x.shape[0], "n"});
    check_multiple("x's last dimension", x.shape[1], 8, INT32_MAX);
    check_multiple("out's last dimension", out.shape[1], 8, INT32_MAX);
    check_rows(a, "a", cuda::ElementType::float32, {"ranks", x.shape[1]});
    check_rows(b, "b", cuda::ElementType::float32, {a.shape[0], out.shape[1]});
    check(starts, "starts", DType::int32, {"adapters + 1"});
    check(tiles, "tiles", DType::int32, {"tiles", 1 + cuda::kAdapterTileRows});
    check(inner, "inner", DType::float32, {tiles.shape[0], cuda::kAdapterTileRows, "ranks"});
    for (const auto& [tensor, name] : {std::pair(&a, "a"), std::pair(&b, "b"), std::pair(&tiles, "tiles"),
                                       std::pair(&inner, "inner")})
        check_contiguous(*tensor, name);
    cuda::low_rank({out.data, x.data, a.as<const float>(), b.as<const float>(), starts.as<const int32_t>(),
                    tiles.as<const int32_t>(), inner.as<float>(), out.stride[0], x.stride[0], tiles.shape[0], inner.shape[2],
                    x.shape[1], out.shape[1], type},
                   stream_of(x));
}

}  // namespace

void bind_low_rank(nb::module_& module) { module.def("low_rank", low_rank); }

}  // namespace pagecli
