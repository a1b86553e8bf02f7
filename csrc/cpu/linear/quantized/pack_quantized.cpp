// pack_quantized: rows of quantized numbers and their scales -> groups of 16 rows (layout in quantized_weight.h).
#include "pagecli/linear/pack_quantized.h"

#include <string.h>

#include "linear/quantized/number_order.h"
#include "pagecli/linear/quantized_weight.h"
#include "parallel.h"

namespace pagecli::PAGECLI_ISA {
namespace {

// 32 k of `rows` rows; `to` is zero.
void pack_run(uint8_t* to, const QuantizedHeader& header, const uint8_t* q, int64_t stride, int rows) {
    for (int r = 0; r < rows; ++r) {
        for (int k = 0; k < kRunK; ++k) {
            const uint8_t value = q[r * stride + k];
            if (header.bits == 4)
                to[byte_of_nibble(k, r)] |= static_cast<uint8_t>((value & 15) << shift_of_nibble(k));
            else
                to[byte_of(k, r)] = value;
        }
    }
}

void pack_panel(uint8_t* to, const PackQuantizedArgs& a, int64_t first_row, int rows) {
    const QuantizedHeader& header = *a.header;
    memset(to, 0, static_cast<size_t>(a.cols / header.group * header.group_bytes()));
    for (int64_t group = 0; group < a.cols / header.group; ++group) {
        for (int r = 0; r < rows; ++r) {
            memcpy(to + 2 * r, a.scale + (first_row + r) * a.scale_stride + group, sizeof(uint16_t));
            if (a.offset != nullptr)
                memcpy(to + 2 * (kPanelWidth + r), a.offset + (first_row + r) * a.offset_stride + group, sizeof(uint16_t));
        }
        to += header.scales_bytes();
        for (int64_t k = group * header.group; k < (group + 1) * header.group; k += kRunK, to += header.run_bytes())
            pack_run(to, header, a.q + first_row * a.q_stride + k, a.q_stride, rows);
    }
}

}  // namespace

void pack_quantized(const PackQuantizedArgs& a) {
    const int64_t num_panels = (a.rows + kPanelWidth - 1) / kPanelWidth;
    const int64_t panel_bytes = a.cols / a.header->group * a.header->group_bytes();
    parallel_for(num_panels, 1, [&](int64_t begin, int64_t end) {
        for (int64_t panel = begin; panel < end; ++panel) {
            const int64_t first = panel * kPanelWidth, left = a.rows - first;
            pack_panel(static_cast<uint8_t*>(a.packed) + panel * panel_bytes, a, first,
                       static_cast<int>(left < kPanelWidth ? left : kPanelWidth));
        }
    });
}

}  // namespace pagecli::PAGECLI_ISA
