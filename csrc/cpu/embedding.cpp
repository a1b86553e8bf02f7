// embedding: rows gathered out of a packed weight, so that a tied embedding and LM head share one copy.
#include "pagecli/embedding.h"

#include "parallel.h"
#include "vec.h"

namespace pagecli::PAGECLI_ISA {
namespace {

// Row `lane` of a panel lies one element (pair) in every 16.
void gather_row(float* out, const float* panel, int lane, int64_t cols) {
    for (int64_t k = 0; k < cols; ++k) out[k] = panel[k * kPanelWidth + lane];
}

void gather_row(float* out, const uint16_t* panel, int lane, int64_t cols) {
    for (int64_t k = 0; k < cols; ++k) out[k] = widen_bf16(panel[(k / 2 * kPanelWidth + lane) * 2 + k % 2]);
}

void gather_row(float* out, const Int8Group* panel, int lane, int64_t cols) {
    for (int64_t k = 0; k < cols; ++k) {
        const Int8Group& group = panel[k / kGroupK];
        out[k] = group.scale[lane] * static_cast<float>(group.q[k % kGroupK / 2][lane][k % 2]);
    }
}

template <class Packed>
void gather_rows(const EmbeddingArgs& a, int64_t panel_elements) {
    const Packed* data = static_cast<const Packed*>(a.weight.data);
    const int64_t cols = a.weight.cols;
    parallel_for(a.tokens, row_grain(16 * cols), [&](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t) {
            const int64_t row = a.token_ids[t];
            const Packed* panel = data + row / kPanelWidth * panel_elements;
            gather_row(a.out + t * a.out_stride, panel, static_cast<int>(row % kPanelWidth), cols);
        }
    });
}

}  // namespace

void embedding(const EmbeddingArgs& a) {
    const int64_t cols = a.weight.cols, panel_elements = (cols + 1) / 2 * 2 * kPanelWidth;
    switch (a.weight.type) {
        case WeightType::float32: return gather_rows<float>(a, panel_elements);
        case WeightType::bfloat16: return gather_rows<uint16_t>(a, panel_elements);
        case WeightType::int8: return gather_rows<Int8Group>(a, (cols + kGroupK - 1) / kGroupK);
    }
}

}  // namespace pagecli::PAGECLI_ISA
