// The threads that kernels share their work with. One team for the process, made when first needed.
//
// Why not OpenMP: at the end of a parallel region its barrier waits for every thread of the team, one that the operating system
// has not run yet included. Beside another busy process that is milliseconds for each of a step's hundreds of regions. Here a
// thread that comes late finds the work done and nobody waits for it.
#pragma once

#include <stdint.h>

namespace pagecli {

// Threads a kernel may use, the calling one included. Starts as the number of CPUs this process may run on.
int max_threads();

// `count` is at least 1.
void set_max_threads(int count);

using PieceFunction = void (*)(const void* context, int64_t piece);

// function(context, piece) for every piece in [0, pieces), by the caller and whichever threads of the team are free, in no fixed
// order; returns when all are done. A call from two threads at once, or from within a piece, runs its pieces on its own thread.
void run_pieces(int64_t pieces, PieceFunction function, const void* context);

}  // namespace pagecli
