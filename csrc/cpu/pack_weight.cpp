// pack_weight: rows of a weight -> panels of 16 rows (layout in packed_weight.h), reading the source once.
#include "pagecli/pack_weight.h"

#include "parallel.h"
#include "vec.h"

namespace pagecli::PAGECLI_ISA {
namespace {

constexpr int kRows = static_cast<int>(kPanelWidth);
constexpr int kSegment = 64;  // columns transposed at a time: 16 x 64 floats are 4 KiB

float widen(float x) { return x; }
float widen(uint16_t bf16) { return widen_bf16(bf16); }
float widen(_Float16 x) { return static_cast<float>(x); }

void convert(float* to, float x) { *to = x; }
void convert(uint16_t* to, float x) { *to = round_to_bf16(x); }

// One panel: packed[k][16] (float) or packed[k / 2][16][2] (bfloat16). A cell is what moves as one: a float or a pair.
template <class Source, class Packed>
void pack_panel(Packed* packed, const Source* weight, int64_t weight_stride, int rows, int64_t cols) {
    constexpr int kPerCell = sizeof(uint32_t) / sizeof(Packed);
    const int64_t padded_cols = (cols + 1) / 2 * 2;
    alignas(64) Packed segment[kRows][kSegment] = {};
    for (int64_t first = 0; first < padded_cols; first += kSegment) {
        const int width = static_cast<int>(padded_cols - first < kSegment ? padded_cols - first : kSegment);
        const int filled = static_cast<int>(cols - first < width ? cols - first : width);
        for (int r = 0; r < rows; ++r) {
            const Source* from = weight + r * weight_stride + first;
            for (int k = 0; k < filled; ++k) convert(&segment[r][k], widen(from[k]));
            for (int k = filled; k < width; ++k) segment[r][k] = 0;
        }
        for (int cell = 0; cell < width / kPerCell; ++cell)
            for (int r = 0; r < kRows; ++r)
                memcpy(packed + first * kRows + (cell * kRows + r) * kPerCell, &segment[r][cell * kPerCell], sizeof(uint32_t));
    }
}

template <class Source, class Packed>
void pack(const PackWeightArgs& a) {
    const int64_t num_panels = (a.rows + kRows - 1) / kRows, panel_elements = (a.cols + 1) / 2 * 2 * kRows;
    Packed* packed = static_cast<Packed*>(a.packed);
    const Source* weight = static_cast<const Source*>(a.weight);
    parallel_for(num_panels, 1, [&](int64_t begin, int64_t end) {
        for (int64_t panel = begin; panel < end; ++panel) {
            const int64_t first = panel * kRows;
            const int rows = static_cast<int>(a.rows - first < kRows ? a.rows - first : kRows);
            pack_panel(packed + panel * panel_elements, weight + first * a.weight_stride, a.weight_stride, rows, a.cols);
        }
    });
}

template <class Source>
void pack_from(const PackWeightArgs& a) {
    if (a.packed_type == WeightType::float32)
        pack<Source, float>(a);
    else
        pack<Source, uint16_t>(a);
}

}  // namespace

void pack_weight(const PackWeightArgs& a) {
    switch (a.source_type) {
        case SourceType::float32: return pack_from<float>(a);
        case SourceType::bfloat16: return pack_from<uint16_t>(a);
        case SourceType::float16: return pack_from<_Float16>(a);
    }
}

}  // namespace pagecli::PAGECLI_ISA
