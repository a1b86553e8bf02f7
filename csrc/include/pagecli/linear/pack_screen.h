// Arguments of pack_screen: make the screen (screen.h) of an LM head, once at load.
#pragma once

#include "pagecli/linear/screen.h"

namespace pagecli {

struct PackScreenArgs {
    void* screen;  // screen_words(weight.rows, weight.cols) 32-bit words, written completely
    PackedWeightView weight;
    bool* usable;  // false where a row of the weight is not finite, or so large that bounds would not be
};

}  // namespace pagecli
