// Rows in 8-bit floats, each with a scale of its own: one block of threads for a row, which is read twice, the second time out
// of the cache.
#include "device/float8_rows.h"
#include "pagecli/cuda/elementwise/quantize_rows.h"

namespace pagecli::cuda {
namespace {

template <class T>
__global__ void __launch_bounds__(kMaxRowThreads) quantize_rows_kernel(QuantizeRowsArgs a) {
    PAGECLI_SHARED_ARRAY(float, partial, kMaxWarps);
    const int64_t token = blockIdx.x;
    const T* x = static_cast<const T*>(a.x) + token * a.x_stride;
    store_row_in_e4m3<T>(static_cast<E4M3*>(a.out) + token * a.dim, a.scales + token, a.dim, partial,
                         [&](float(&values)[kVec], int vec) { load_floats(values, x + vec * kVec); });
}

}  // namespace

void quantize_rows(const QuantizeRowsArgs& a, Stream stream) {
    if (a.tokens == 0) return;
    const LaunchShape shape = {a.tokens, 1, 1, row_threads(a.dim), stream};
    with_element_type(a.type, [&](auto element) { launch<quantize_rows_kernel<decltype(element)>>(shape, a); });
}

}  // namespace pagecli::cuda
