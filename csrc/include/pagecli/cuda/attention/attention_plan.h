// The plan of a step's attention: pure arithmetic on the host, the same on every machine.
#pragma once

#include "pagecli/cuda/attention/paged_attention.h"

namespace pagecli::cuda {

// How many tokens of context a run of decode attends to: the number that lets the last thread block end soonest.
//
// A thread block takes about as long as the keys it reads, plus kRunOverhead keys' worth of starting and ending; `slots` blocks
// run at once; after the work is spread evenly the slowest may still have one whole run before it. Cut runs are merged, which
// costs a launch. So for runs of c keys:  (all keys + runs * overhead) * kv_heads / slots + c + overhead (+ 2 * overhead if
// cut).
//
// Example, an H200 (132 multiprocessors, 3 blocks each): 64 sequences of 1,000 tokens and 40 heads are 2,560 blocks on 396
// slots: whole sequences (7,944) beat halves (8,123). One sequence of 8,192 tokens and 8 KV heads: runs of 128 (632).
constexpr int64_t kRunOverhead = 64;
int64_t choose_run_length(const int64_t* num_keys, int64_t num_rows, int64_t kv_heads, int64_t slots, int64_t max_runs);

// The keys each query row attends to, and where its sequence's block table is.
struct DecodeRow {
    int32_t sequence, row, first_key, end_key;
};

// Cuts rows into runs of `run_length` keys. Unused entries of runs[max_runs] and merges[max_merges] are marked as padding.
// Returns how many partial results the runs need, or -1 if there is no room.
int64_t cut_into_runs(const DecodeRow* rows, int64_t num_rows, int64_t run_length, KeyRun* runs, int64_t max_runs,
                      Merge* merges, int64_t max_merges);

// Tiles of the sequences with num_queries[s] > 0, those with the most keys first; unused entries are marked as padding. Returns
// how many tiles there are, or -1 if there is no room.
int64_t cut_into_tiles(const int32_t* sequences, const int32_t* num_queries, const int32_t* context_lens, int64_t num_sequences,
                       int64_t group, RowTile* tiles, int64_t max_tiles);

}  // namespace pagecli::cuda
