// How pairs of bfloat16 are multiplied where a processor has an instruction for them: by it, or widened, by multiply-adds of floats,
// which give the same bits. Intel's cores take as long for one vdpbf16ps as for four multiply-adds (measured on an Emerald Rapids).
#pragma once

namespace pagecli {

bool pairs_are_widened();
void widen_pairs(bool widened);  // for tests and measurements, while no kernel runs

}  // namespace pagecli
