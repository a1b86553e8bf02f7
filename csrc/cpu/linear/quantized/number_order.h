// Where the numbers of a run of quantized weights (quantized_weight.h) are.
#pragma once

namespace pagecli::PAGECLI_ISA {

// Of 4 bits: k of the panel's row `row` is `shift` bits up in this byte.
constexpr int byte_of_nibble(int k, int row) { return (k / 8 * 16 + row) * 4 + k % 2 * 2 + k % 8 / 4; }
constexpr int shift_of_nibble(int k) { return k % 8 / 2 % 2 * 4; }

// Of 8 bits.
constexpr int byte_of(int k, int row) { return (k / 2 * 16 + row) * 2 + k % 2; }

}  // namespace pagecli::PAGECLI_ISA
