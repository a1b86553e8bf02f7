// pack_bounds: the 7-bit copy of an LM head by which pruned_argmax prunes (layout in quantized_bounds.h), made of the packed weights.
#include <math.h>
#include <string.h>

#include <memory>

#include "gather_row.h"
#include "isa/vec.h"
#include "pagecli/linear/pack_bounds.h"
#include "parallel.h"

namespace pagecli::PAGECLI_ISA {
namespace {

// Where one row of the weight goes.
struct BoundsRow {
    uint8_t* bytes;  // its first four k; the next four are 4 * kPanelWidth bytes further
    float *scale, *norm, *error;
};

// values[bounds_cols(cols)], zeros beyond `cols`, into `row`; false where they are not finite or too large to be bounded in float.
// The lengths are of values / scale, whose squares neither overflow nor vanish; what float rounds in them, a few units in the last
// place of a value, is among what linear_argmax allows for (rounding_of).
bool quantize_row(const BoundsRow& row, const float* values, int64_t cols) {
    constexpr double kUp = 1.0 + 0x1p-19;
    constexpr float kLargest = 1e17f, kSmallest = 1e-30f;
    VecF highest = zero(), poison = zero();
    for (int64_t k = 0; k < bounds_cols(cols); k += VecF::width) {
        highest = max(abs(load(values + k)), highest);
        poison = fmadd(load(values + k), zero(), poison);
    }
    const float largest = reduce_max(highest);
    const bool bounded = reduce_add(poison) == 0.0f && largest < kLargest;
    const float inverse = bounded && largest > kSmallest ? kBoundsLimit / largest : 0.0f;
    double kept = 0.0, missed = 0.0;
    for (int64_t first = 0; first < bounds_cols(cols); first += kGroupK) {
        alignas(64) int32_t q[kGroupK];
        VecF kept_here = zero(), missed_here = zero();
        for (int k = 0; k < kGroupK; k += VecF::width) {
            const VecF value = bounded ? load(values + first + k) * broadcast(inverse) : zero();
            const VecI rounded = round_to_int(value);
            const VecF stands_for = to_float(rounded), miss = value - stands_for;
            kept_here = fmadd(stands_for, stands_for, kept_here);
            missed_here = fmadd(miss, miss, missed_here);
            const VecF bytes = from_bits(rounded + broadcast_int(kBoundsZero));
            memcpy(q + k, &bytes, sizeof bytes);
        }
        kept += static_cast<double>(reduce_add(kept_here));
        missed += static_cast<double>(reduce_add(missed_here));
        for (int k = 0; k < kGroupK; k += 4) {
            const uint32_t quad = static_cast<uint32_t>(q[k] | q[k + 1] << 8 | q[k + 2] << 16 | q[k + 3] << 24);
            memcpy(row.bytes + (first + k) * kPanelWidth, &quad, sizeof quad);
        }
    }
    *row.scale = largest / kBoundsLimit;
    *row.norm = static_cast<float>(static_cast<double>(*row.scale) * ::sqrt(kept) * kUp);
    *row.error = static_cast<float>(static_cast<double>(*row.scale) * ::sqrt(missed) * kUp);
    if (inverse == 0.0f) *row.error = static_cast<float>(static_cast<double>(largest) * ::sqrt(static_cast<double>(cols)) * kUp);
    return bounded;
}

}  // namespace

void pack_bounds(const PackBoundsArgs& a) {
    const int64_t rows = a.weight.rows, cols = a.weight.cols;
    const int64_t panels = bounds_panels(rows), panel_bytes = bounds_cols(cols) * kPanelWidth;
    uint8_t* bytes = static_cast<uint8_t*>(a.bounds);
    float* scale = reinterpret_cast<float*>(bytes + panels * panel_bytes);
    bool usable = true;
    parallel_for(panels, 1, [&](int64_t begin, int64_t end) {
        const std::unique_ptr<float[]> values(new float[static_cast<size_t>(bounds_cols(cols))]());
        for (int64_t row = begin * kPanelWidth; row < end * kPanelWidth; ++row) {
            uint8_t* at = bytes + row / kPanelWidth * panel_bytes + row % kPanelWidth * 4;
            float* scale_of_row = scale + row;
            const BoundsRow to = {at, scale_of_row, scale_of_row + panels * kPanelWidth, scale_of_row + 2 * panels * kPanelWidth};
            if (row < rows) gather_row(values.get(), a.weight, row);
            if (row == rows) memset(values.get(), 0, static_cast<size_t>(cols) * sizeof(float));  // from here on padding
            if (!quantize_row(to, values.get(), cols)) __atomic_store_n(&usable, false, __ATOMIC_RELAXED);
        }
    });
    *a.usable = usable;
}

}  // namespace pagecli::PAGECLI_ISA
