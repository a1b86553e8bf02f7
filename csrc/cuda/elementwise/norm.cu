// RMSNorm and LayerNorm, one block of threads for a row, which stays in registers between the statistics and the writing: a
// row is read once and written once (twice with a residual), in 8-bit floats where it has scales.
#include "device/float8_rows.h"
#include "device/norm.h"
#include "pagecli/cuda/elementwise/layer_norm.h"

namespace pagecli::cuda {
namespace {

template <class T>
__device__ T* row_at(const void* tensor, const int64_t (&stride)[2], int64_t token, int64_t head) {
    return static_cast<T*>(const_cast<void*>(tensor)) + token * stride[0] + head * stride[1];
}

// O is T, or E4M3 where a.scales are wanted.
template <class T, bool kCentered, class O>
__global__ void __launch_bounds__(kMaxNormThreads) norm_kernel(RmsNormArgs a, const float* bias) {
    PAGECLI_SHARED_ARRAY(float, partial, 2 * kMaxWarps);
    const int64_t token = blockIdx.x, head = blockIdx.y;
    T* x = row_at<T>(a.x, a.x_stride, token, head);
    const T* added = a.added != nullptr ? row_at<T>(a.added, a.added_stride, token, head) : nullptr;
    O* out = row_at<O>(a.out, a.out_stride, token, head);
    const int num_vecs = static_cast<int>(a.dim / kVec), step = static_cast<int>(blockDim.x);
    const int first = static_cast<int>(threadIdx.x);
    float values[kMaxNormVecs][kVec];
    float sum = 0.0f;
#pragma unroll
    for (int j = 0; j < kMaxNormVecs; ++j) {
        const int vec = first + j * step;
        if (vec >= num_vecs) break;
        load_floats(values[j], x + vec * kVec);
        if (added != nullptr) {
            float more[kVec];
            load_floats(more, added + vec * kVec);
#pragma unroll
            for (int i = 0; i < kVec; ++i) values[j][i] = to_float(from_float<T>(values[j][i] + more[i]));
            store_floats(x + vec * kVec, values[j]);
        }
        if (kCentered) {
#pragma unroll
            for (const float value : values[j]) sum += value;
        } else {
            add_squares(sum, values[j]);
        }
    }
    float mean = 0.0f, squares = block_sum(sum, partial);
    if (kCentered) {
        mean = squares / static_cast<float>(a.dim);
        float distances = 0.0f;
#pragma unroll
        for (int j = 0; j < kMaxNormVecs; ++j) {
            if (first + j * step >= num_vecs) break;
#pragma unroll
            for (const float value : values[j]) distances += (value - mean) * (value - mean);
        }
        squares = block_sum(distances, partial + kMaxWarps);
    }
    const float scale = norm_scale(squares, a.dim, a.eps);
    float largest = 0.0f;
#pragma unroll
    for (int j = 0; j < kMaxNormVecs; ++j) {
        const int vec = first + j * step;
        if (vec >= num_vecs) break;
        if (kCentered) {
            float weight[kVec], shift[kVec];
            load_floats(weight, a.weight + vec * kVec);
            load_floats(shift, bias + vec * kVec);
#pragma unroll
            for (int i = 0; i < kVec; ++i) values[j][i] = (values[j][i] - mean) * scale * weight[i] + shift[i];
        } else {
            scale_by(values[j], scale, a.weight + vec * kVec);
        }
        if constexpr (std::is_same_v<O, E4M3>) {
            round_and_measure<T>(values[j], largest);
        } else {
            store_floats(out + vec * kVec, values[j]);
        }
    }
    if constexpr (std::is_same_v<O, E4M3>) {
        largest = block_max(largest, kCentered ? partial : partial + kMaxWarps);  // that the last sum is not read from
        if (threadIdx.x == 0) a.scales[token] = e4m3_scale(largest);
#pragma unroll
        for (int j = 0; j < kMaxNormVecs; ++j) {
            const int vec = first + j * step;
            if (vec >= num_vecs) break;
            store_in_e4m3(out + vec * kVec, values[j], e4m3_share(largest));
        }
    }
}

template <bool kCentered>
void normalize(const RmsNormArgs& a, const float* bias, Stream stream) {
    if (a.tokens == 0 || a.heads == 0) return;
    const LaunchShape shape = {a.tokens, a.heads, 1, norm_threads(a.dim), stream};
    with_cache_type(a.type, a.scales != nullptr ? CacheType::e4m3 : CacheType::model, [&](auto element, auto stored) {
        launch<norm_kernel<decltype(element), kCentered, decltype(stored)>>(shape, a, bias);
    });
}

}  // namespace

void rms_norm(const RmsNormArgs& a, Stream stream) { normalize<false>(a, nullptr, stream); }

void layer_norm(const LayerNormArgs& a, Stream stream) { normalize<true>(a.rows, a.bias, stream); }

}  // namespace pagecli::cuda
