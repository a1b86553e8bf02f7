// pack_quantized: rows of quantized numbers and their scales -> groups of 16 rows (layout in quantized_weight.h).
#include "pagecli/linear/pack_quantized.h"

#include <string.h>

#include "linear/quantized/numbers.h"
#include "pagecli/linear/quantized_weight.h"
#include "parallel.h"

namespace pagecli::PAGECLI_ISA {
namespace {

// The words of one row's 32 numbers, a plane of `bits` of them from bit `from` on.
template <int bits>
void pack_plane(uint32_t* words, const uint8_t* q, int from) {
    constexpr uint32_t mask = (1u << bits) - 1;
    for (int i = 0; i < bits; ++i) {
        uint32_t word = 0;
        for (int j = 0; j < 16 / bits; ++j) {
            const uint8_t* pair = q + 2 * (16 / bits * i + j);
            word |= ((pair[0] >> from & mask) | (pair[1] >> from & mask) << 16) << bits * j;
        }
        words[i * kPanelWidth] = word;
    }
}

void pack_row(uint32_t* words, const uint8_t* q, int bits) {
    if (bits < 4) {
        pack_plane<2>(words, q, 0);
        if (bits == 3) pack_plane<1>(words + 2 * kPanelWidth, q, 2);
        return;
    }
    pack_plane<4>(words, q, 0);
    if (bits == 5) pack_plane<1>(words + 4 * kPanelWidth, q, 4);
    if (bits == 6) pack_plane<2>(words + 4 * kPanelWidth, q, 4);
}

// 32 k of `rows` rows.
void pack_numbers(uint8_t* to, const OfRows<uint8_t>& q, int64_t first_row, int64_t k, int rows, int bits) {
    for (int r = 0; r < rows; ++r) {
        const uint8_t* row = q.row(first_row + r) + k;
        if (bits == kFloat8) {
            for (int i = 0; i < kRunK; ++i) to[i * kPanelWidth + r] = row[i];
            continue;
        }
        if (bits != 8) {
            pack_row(reinterpret_cast<uint32_t*>(to) + r, row, bits);
            continue;
        }
        for (int pair = 0; pair < kRunPairs; ++pair) memcpy(to + (pair * kPanelWidth + r) * 2, row + 2 * pair, 2);
    }
}

// Copies a half of each row, and says whether all are finite.
bool pack_halves(uint16_t* to, const OfRows<uint16_t>& from, int64_t first_row, int rows, int64_t group) {
    bool finite = true;
    for (int r = 0; r < rows; ++r) {
        to[r] = from.row(first_row + r)[group];
        finite &= (to[r] & 0x7c00) != 0x7c00;
    }
    return finite;
}

// As pack_halves, of floats, in which neither a weight nor its parts are to become denormals or too large.
bool pack_floats(float* to, const OfRows<float>& from, int64_t first_row, int rows, int64_t group) {
    bool usable = true;
    for (int r = 0; r < rows; ++r) {
        to[r] = from.row(first_row + r)[group];
        const float size = __builtin_fabsf(to[r]);
        usable &= size == 0.0f || (size >= 0x1p-60f && size <= 0x1p60f);
    }
    return usable;
}

// Whether all scales are finite.
bool pack_panel(uint8_t* to, const PackQuantizedArgs& a, int64_t first_row, int rows) {
    const QuantizedHeader& header = *a.header;
    const int64_t num_factors = header.num_factors();
    bool finite = true;
    memset(to, 0, static_cast<size_t>(a.cols / header.group * header.group_bytes()));
    for (int64_t group = 0; group < a.cols / header.group; ++group) {
        uint16_t* halves = reinterpret_cast<uint16_t*>(to);
        finite &= header.wide != 0 ? pack_floats(reinterpret_cast<float*>(to), a.wide_scale, first_row, rows, group)
                                   : pack_halves(halves, a.scale, first_row, rows, group);
        if (a.offset.data != nullptr) finite &= pack_halves(halves + kPanelWidth, a.offset, first_row, rows, group);
        to += header.scales_bytes();
        for (int64_t k = group * header.group; k < (group + 1) * header.group; k += kRunK, to += header.run_bytes()) {
            for (int64_t part = 0; part < num_factors; ++part) {
                for (int r = 0; r < rows; ++r) {
                    const int64_t at = k / header.part + part;
                    to[part * kPanelWidth + r] = a.factor.row(first_row + r)[at];
                    if (a.offset_factor.data != nullptr)
                        to[(num_factors + part) * kPanelWidth + r] = a.offset_factor.row(first_row + r)[at];
                }
            }
            pack_numbers(to + header.factors_bytes(), a.q, first_row, k, rows, header.numbers());
        }
    }
    return finite;
}

}  // namespace

void pack_quantized(const PackQuantizedArgs& a) {
    const int64_t num_panels = (a.rows + kPanelWidth - 1) / kPanelWidth;
    const int64_t panel_bytes = a.cols / a.header->group * a.header->group_bytes();
    *a.finite = true;
    parallel_for(num_panels, 1, [&](int64_t begin, int64_t end) {
        for (int64_t panel = begin; panel < end; ++panel) {
            const int64_t first = panel * kPanelWidth, left = a.rows - first;
            const int rows = static_cast<int>(left < kPanelWidth ? left : kPanelWidth);
            if (!pack_panel(static_cast<uint8_t*>(a.packed) + panel * panel_bytes, a, first, rows))
                __atomic_store_n(a.finite, false, __ATOMIC_RELAXED);
        }
    });
}

}  // namespace pagecli::PAGECLI_ISA
