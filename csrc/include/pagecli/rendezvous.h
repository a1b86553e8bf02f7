// Where the ranks of a tensor-parallel group wait for each other, in memory that their processes share.
//
// Each rank has a word, in a cache line of its own, that counts how often it has arrived; the group's last word ends all waiting.
// A wait ends when every rank has arrived as often, when the group is released, or at the deadline, which names who did not come;
// time for which the waiting process was stopped itself does not count towards it.
#pragma once

#include <stdint.h>

namespace pagecli {

constexpr int64_t kWordsPerRank = 16;  // 64 bytes

struct Rendezvous {
    uint32_t* words;  // [ranks + 1, kWordsPerRank]
    int rank, ranks;
    double timeout_seconds;
    uint32_t arrived = 0;
    double waited_seconds = 0.0;  // without time for which it was stopped
    int missing = -1;  // the rank that did not come; -1: all have, so far

    // Whether all have come. After the first time that it is false, it is false at once.
    bool meet();
    bool failed() const { return missing >= 0; }
};

}  // namespace pagecli
