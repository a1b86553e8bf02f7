// log_normalizers: one block for a row. Its sum is in double, as on the CPU: 128,000 terms of a float would lose digits.
#include "pagecli/cuda/sampling/log_normalizers.h"

#include "device/launch.h"
#include "logits.h"

namespace pagecli::cuda {
namespace {

__global__ void __launch_bounds__(kRowThreads) log_normalizers_kernel(LogNormalizersArgs a) {
    float* row = a.logits + a.rows[blockIdx.x] * a.logits_stride;
    const int cols = static_cast<int>(a.cols);
    const float largest = largest_logit(row, cols);
    double mine = 0;
    for_each_logit(row, cols, [&](int, float logit) { mine += static_cast<double>(expf(logit - largest)); });
    const float log_sum = static_cast<float>(log(block_total(mine)));
    if (threadIdx.x == 0) {
        a.out[2 * blockIdx.x] = largest;
        a.out[2 * blockIdx.x + 1] = log_sum;
    }
    if (a.subtract) for_each_logit(row, cols, [&](int i, float logit) { row[i] = logit - largest - log_sum; });
}

}  // namespace

void log_normalizers(const LogNormalizersArgs& a, Stream stream) {
    if (a.num_rows > 0) launch<log_normalizers_kernel>({a.num_rows, 1, 1, kRowThreads, stream}, a);
}

}  // namespace pagecli::cuda
