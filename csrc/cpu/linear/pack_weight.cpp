// pack_weight: rows of a weight -> panels of 16 rows (layout in packed_weight.h), reading the source once.
#include "pagecli/linear/pack_weight.h"

#include "isa/vec.h"
#include "parallel.h"
#include "rotate.h"

namespace pagecli::PAGECLI_ISA {
namespace {

constexpr int kRows = static_cast<int>(kPanelWidth);
constexpr int kSegment = 64;  // columns transposed at a time: 16 x 64 floats are 4 KiB

struct Bfloat16 {
    uint16_t bits;
};
struct Float16 {
    uint16_t bits;
};

VecF read(const float* p) { return load(p); }
VecF read(const Bfloat16* p) { return load_bf16(&p->bits); }
VecF read(const Float16* p) { return load_f16(&p->bits); }
void write(float* p, VecF v) { store(p, v); }
void write(Bfloat16* p, VecF v) { store_bf16(&p->bits, v); }

template <class Source, class Packed>
void convert(Packed* to, const Source* from, int count) {
    constexpr int kWidth = VecF::width;
    int k = 0;
    for (; k + kWidth <= count; k += kWidth) write(to + k, read(from + k));
    if (k == count) return;
    Source in[kWidth] = {};
    Packed out[kWidth];
    memcpy(in, from + k, static_cast<size_t>(count - k) * sizeof(Source));
    write(out, read(in));
    memcpy(to + k, out, static_cast<size_t>(count - k) * sizeof(Packed));
}

template <class Same>
void convert(Same* to, const Same* from, int count) {
    memcpy(to, from, static_cast<size_t>(count) * sizeof(Same));
}

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
            convert(segment[r], weight + r * weight_stride + first, filled);
            for (int k = filled; k < width; ++k) segment[r][k] = {};
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

// Row `row`'s 64 values into a group.
void quantize_row(PairedGroup& group, int row, const float* values) {
    int32_t q[kGroupK];
    group.scale[row] = quantize_group(q, values, kLargestByte);
    for (int k = 0; k < kGroupK; ++k) group.q[k / 2][row][k % 2] = static_cast<int8_t>(q[k]);
}

void quantize_row(RotatedGroup& group, int row, const float* values) {
    int8_t q[kGroupK];
    group.scale[row] = rotate_and_quantize(q, values);
    for (int k = 0; k < kGroupK; ++k) group.q[k / 4][row][k % 4] = q[k];
}

template <class Group, class Source>
void quantize_panel(Group* packed, const Source* weight, int64_t weight_stride, int rows, int64_t cols) {
    for (int64_t first = 0; first < cols; first += kGroupK, ++packed) {
        const int width = static_cast<int>(cols - first < kGroupK ? cols - first : kGroupK);
        memset(static_cast<void*>(packed), 0, sizeof *packed);
        for (int r = 0; r < rows; ++r) {
            alignas(64) float values[kGroupK] = {};
            convert(values, weight + r * weight_stride + first, width);
            quantize_row(*packed, r, values);
        }
    }
}

template <class Group, class Source>
void quantize(const PackWeightArgs& a) {
    const int64_t num_panels = (a.rows + kRows - 1) / kRows, num_groups = (a.cols + kGroupK - 1) / kGroupK;
    Group* packed = static_cast<Group*>(a.packed);
    const Source* weight = static_cast<const Source*>(a.weight);
    parallel_for(num_panels, 1, [&](int64_t begin, int64_t end) {
        for (int64_t panel = begin; panel < end; ++panel) {
            const int64_t first = panel * kRows;
            const int rows = static_cast<int>(a.rows - first < kRows ? a.rows - first : kRows);
            quantize_panel(packed + panel * num_groups, weight + first * a.weight_stride, a.weight_stride, rows, a.cols);
        }
    });
}

template <class Source>
void pack_from(const PackWeightArgs& a) {
    switch (a.packed_type) {
        case WeightType::float32: return pack<Source, float>(a);
        case WeightType::bfloat16: return pack<Source, Bfloat16>(a);
        case WeightType::int8: return quantize<RotatedGroup, Source>(a);
        case WeightType::int8_a16: return quantize<PairedGroup, Source>(a);
    }
}

}  // namespace

void pack_weight(const PackWeightArgs& a) {
    switch (a.source_type) {
        case SourceType::float32: return pack_from<float>(a);
        case SourceType::bfloat16: return pack_from<Bfloat16>(a);
        case SourceType::float16: return pack_from<Float16>(a);
    }
}

}  // namespace pagecli::PAGECLI_ISA
