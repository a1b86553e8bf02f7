// Random numbers that belong to a row: Philox 4x64-10 (Salmon et al., SC 2011) with the counters numpy's generator uses, so
// that the GPU draws what devices/random_draws.py draws.
#pragma once

#include <stdint.h>

#include "device/platform.h"

namespace pagecli::cuda {

// A number in [0, 1) of keys[4]: seed, row key, sample, position.
__device__ inline double philox_uniform(const uint64_t* keys) {
    uint64_t key[2] = {keys[0], keys[1]};
    uint64_t c[4] = {keys[3] + 1, keys[2], 0, 0};  // numpy steps the counter before its first block
    if (c[0] == 0 && ++c[1] == 0) c[2] = 1;
    for (int round = 0; round < 10; ++round) {
        const uint64_t low0 = 0xD2E7470EE14C6C93u * c[0], high0 = __umul64hi(0xD2E7470EE14C6C93u, c[0]);
        const uint64_t low1 = 0xCA5A826395121157u * c[2], high1 = __umul64hi(0xCA5A826395121157u, c[2]);
        c[0] = high1 ^ c[1] ^ key[0];
        c[1] = low1;
        c[2] = high0 ^ c[3] ^ key[1];
        c[3] = low0;
        key[0] += 0x9E3779B97F4A7C15u;
        key[1] += 0xBB67AE8584CAA73Bu;
    }
    return static_cast<double>(c[0] >> 11) * (1.0 / 9007199254740992.0);
}

}  // namespace pagecli::cuda
