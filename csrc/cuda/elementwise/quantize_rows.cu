// Rows in 8-bit floats, each with a scale of its own: one block of threads for a row, which is read twice, the second time out
// of the cache.
#include "device/float8.h"
#include "device/launch.h"
#include "device/reduce.h"
#include "pagecli/cuda/elementwise/quantize_rows.h"

namespace pagecli::cuda {
namespace {

constexpr int kMaxThreads = 512;

template <class T>
__global__ void __launch_bounds__(kMaxThreads) quantize_rows_kernel(QuantizeRowsArgs a) {
    PAGECLI_SHARED_ARRAY(float, partial, kMaxWarps);
    const int64_t token = blockIdx.x;
    const T* x = static_cast<const T*>(a.x) + token * a.x_stride;
    E4M3* out = static_cast<E4M3*>(a.out) + token * a.dim;
    const int num_vecs = static_cast<int>(a.dim / kVec), step = static_cast<int>(blockDim.x);
    float largest = 0.0f;
    for (int vec = static_cast<int>(threadIdx.x); vec < num_vecs; vec += step) {
        float values[kVec];
        load_floats(values, x + vec * kVec);
#pragma unroll
        for (const float value : values) largest = fmaxf(largest, fabsf(value));
    }
    largest = block_max(largest, partial);
    const float share = largest > 0.0f ? kMaxE4M3 / largest : 1.0f;
    if (threadIdx.x == 0) a.scales[token] = largest > 0.0f ? largest / kMaxE4M3 : 1.0f;
    for (int vec = static_cast<int>(threadIdx.x); vec < num_vecs; vec += step) {
        float values[kVec];
        load_floats(values, x + vec * kVec);
#pragma unroll
        for (float& value : values) value *= share;
        store_floats(out + vec * kVec, values);
    }
}

}  // namespace

void quantize_rows(const QuantizeRowsArgs& a, Stream stream) {
    if (a.tokens == 0) return;
    const int64_t vecs = a.dim / kVec;
    const int threads = vecs >= kMaxThreads ? kMaxThreads : static_cast<int>(divide_up(vecs, kWarp) * kWarp);
    const LaunchShape shape = {a.tokens, 1, 1, threads, stream};
    with_element_type(a.type, [&](auto element) { launch<quantize_rows_kernel<decltype(element)>>(shape, a); });
}

}  // namespace pagecli::cuda
