// Embedding rows, with the learned positions added.
#include "device/element.h"
#include "device/launch.h"
#include "pagecli/cuda/elementwise/embedding.h"

namespace pagecli::cuda {
namespace {

constexpr int kThreads = 128;

template <class T>
__global__ void __launch_bounds__(kThreads) embedding_kernel(EmbeddingArgs a) {
    const int64_t token = blockIdx.x, at = (static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x) * kVec;
    if (at >= a.dim) return;
    float values[kVec] = {};
    const int64_t id = a.token_ids[token];
    if (id >= 0) {
        load_floats(values, static_cast<const T*>(a.weight) + id * a.weight_stride + at);
        if (a.positions_weight != nullptr) {
            const int64_t row = a.positions[token] + a.position_offset;
            float more[kVec];
            load_floats(more, static_cast<const T*>(a.positions_weight) + row * a.positions_stride + at);
#pragma unroll
            for (int i = 0; i < kVec; ++i) values[i] += more[i];
        }
    }
    store_floats(static_cast<T*>(a.out) + token * a.out_stride + at, values);
}

}  // namespace

void embedding(const EmbeddingArgs& a, Stream stream) {
    if (a.tokens == 0 || a.dim == 0) return;
    const LaunchShape shape = {a.tokens, divide_up(a.dim, kThreads * kVec), 1, kThreads, stream};
    with_element_type(a.type, [&](auto element) { launch<embedding_kernel<decltype(element)>>(shape, a); });
}

}  // namespace pagecli::cuda
