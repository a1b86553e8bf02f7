// The measure of the machine: multiply-adds in registers as the tiles of linear do them, and reading as fast as it goes.
#include "pagecli/measure/peak.h"
#include "pagecli/measure/read_memory.h"
#include "pagecli/pair_products.h"

#include <string.h>

#include "isa/quads.h"
#include "linear/tiles/linear_tile_amx.h"
#include "parallel.h"

namespace pagecli::PAGECLI_ISA {
namespace {

#if defined(PAGECLI_SANITIZE)
constexpr int64_t kRoundsPerPiece = 100;  // nothing is measured there
#else
constexpr int64_t kRoundsPerPiece = 100000;
#endif
constexpr int kSums = 10;  // in flight: more than an FMA's latency times those begun in a cycle, and room for both factors

// kRoundsPerPiece times every sum += a * b; the sums' total, which stays finite.
template <class Sum, class A, class B, class MultiplyAdd>
Sum multiply_add_piece(Sum start, A a, B b, MultiplyAdd multiply_add) {
    Sum sum[kSums];
    PAGECLI_UNROLL
    for (int i = 0; i < kSums; ++i) sum[i] = start;
    for (int64_t round = 0; round < kRoundsPerPiece; ++round) {
        PAGECLI_UNROLL
        for (int i = 0; i < kSums; ++i) multiply_add(sum[i], a, b);
        __asm__ volatile("");  // the rounds stay rounds
    }
    for (int i = 1; i < kSums; ++i) sum[0] = sum[0] + sum[i];
    return sum[0];
}

float float32_piece() {
    const VecF factor = broadcast(1e-3f);
    return reduce_add(multiply_add_piece(zero(), factor, factor, [](VecF& s, VecF a, VecF b) { accumulate(s, a, b); }));
}

// Operations of a piece, and the piece itself.
struct Piece {
    int64_t operations;
    float (*run)();
};

constexpr int64_t kRoundOperations = kRoundsPerPiece * kSums * VecF::width;

#if PAGECLI_HAS_MATRIX_UNIT

// Four registers' sums in flight, both factors at rest. They are numbers as models have them: of zeros an Emerald Rapids multiplies
// up to three times as many in a second, before it is throttled.
template <bool IS_INT8>
float unit_piece() {
    alignas(64) float sums[kUnitRows][kPanelWidth];
    alignas(64) uint16_t factors[kUnitBytes / 2];
    uint32_t state = 1;
    for (uint16_t& factor : factors) {
        state = state * 1664525u + 1013904223u;
        factor = static_cast<uint16_t>(0x3f00u | (state >> 16 & 0x80ffu));  // as bfloat16: 0.5 to 2 and -0.5 to -2
    }
    TileUse use;
    use.shape(kUnitRows);
    tile_load<4>(factors, kUnitRowBytes);
    tile_load<5>(factors, kUnitRowBytes);
    tile_load<6>(factors, kUnitRowBytes);
    tile_load<7>(factors, kUnitRowBytes);
    for (int64_t round = 0; round < kRoundsPerPiece; ++round) {
        if constexpr (IS_INT8) {
            tile_dot_int8<0, 4, 6>();
            tile_dot_int8<1, 4, 7>();
            tile_dot_int8<2, 5, 6>();
            tile_dot_int8<3, 5, 7>();
        } else {
            tile_dot_bfloat16<0, 4, 6>();
            tile_dot_bfloat16<1, 4, 7>();
            tile_dot_bfloat16<2, 5, 6>();
            tile_dot_bfloat16<3, 5, 7>();
        }
    }
    tile_store<0>(sums, kUnitRowBytes);
    return sums[0][0];
}

constexpr int64_t kOperationsPerK = kRoundsPerPiece * 4 * 2 * kUnitRows * kPanelWidth;

Piece bfloat16() { return {kOperationsPerK * kChunkK, unit_piece<false>}; }
Piece int8() { return {kOperationsPerK * kGroupK, unit_piece<true>}; }
Piece int8_a16() { return {kOperationsPerK * kGroupK / 2, unit_piece<true>}; }  // 15 bits of x take two products

#else

float bfloat16_piece() {
    const VecI pair = broadcast_int(0x3a833a83);  // 1e-3 twice
    return reduce_add(multiply_add_piece(zero(), pair, pair, [](VecF& s, VecI a, VecI b) { accumulate_pairs(s, a, b); }));
}

float int8_piece() {
    alignas(64) int8_t ones[64];
    uint32_t cells[16 * cells_per_quad];
    memset(ones, 1, sizeof ones);
    lay_quad_x(cells, ones);
    return reduce_add(to_float(multiply_add_piece(broadcast_int(0), load_quad_x(cells), load_quads(ones),
                                                  [](VecI& s, const auto& x, const auto& quads) { accumulate_quads(s, x, quads); })));
}

float int8_a16_piece() {
    const VecI pair = broadcast_int(0x00010001);
    return reduce_add(to_float(
        multiply_add_piece(broadcast_int(0), pair, pair, [](VecI& s, VecI a, VecI b) { accumulate_int16(s, a, b); })));
}

Piece bfloat16() {
    if (!has_pair_dot || (pairs_can_be_widened && pairs_are_widened())) return {2 * kRoundOperations, float32_piece};
    return {4 * kRoundOperations, bfloat16_piece};
}
Piece int8() { return {8 * kRoundOperations, int8_piece}; }
Piece int8_a16() { return {4 * kRoundOperations, int8_a16_piece}; }

#endif

Piece piece_of(WeightType type) {
    switch (type) {
        case WeightType::bfloat16: return bfloat16();
        case WeightType::int8: return int8();
        case WeightType::int8_a16: return int8_a16();
        case WeightType::float32: break;
    }
    return {2 * kRoundOperations, float32_piece};
}

constexpr int64_t kStretch = int64_t{1} << 20;  // bytes one thread takes at a time

uint32_t read_stretch(const char* data, int64_t bytes) {
    constexpr int kStreams = 8;
    constexpr int64_t kVector = VecF::width * 4, kStep = kStreams * kVector;
    VecI mixed[kStreams];
    for (VecI& m : mixed) m = broadcast_int(0);
    int64_t at = 0;
    for (; at + kStep <= bytes; at += kStep) {
        PAGECLI_UNROLL
        for (int i = 0; i < kStreams; ++i)
            mixed[i] = mixed[i] ^ load_pairs(reinterpret_cast<const uint16_t*>(data + at + i * kVector));
    }
    for (int i = 1; i < kStreams; ++i) mixed[0] = mixed[0] ^ mixed[i];
    uint32_t lanes[VecF::width], result = 0;
    memcpy(lanes, &mixed[0], sizeof lanes);
    for (const uint32_t lane : lanes) result ^= lane;
    for (; at < bytes; at += 4) {
        uint32_t word = 0;
        memcpy(&word, data + at, static_cast<size_t>(bytes - at < 4 ? bytes - at : 4));
        result ^= word;
    }
    return result;
}

}  // namespace

void peak(const PeakArgs& a) {
    const Piece piece = piece_of(a.type);
    parallel_for(a.pieces, 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            const float sum = piece.run();
            __asm__ volatile("" : : "x"(sum));  // somebody wants to know
        }
    });
    *a.operations = a.pieces * piece.operations;
}

void read_memory(const ReadMemoryArgs& a) {
    uint32_t mixed = 0;
    const int64_t stretches = (a.bytes + kStretch - 1) / kStretch;
    parallel_for(stretches, 1, [&](int64_t begin, int64_t end) {
        uint32_t here = 0;
        for (int64_t i = begin; i < end; ++i) {
            const int64_t left = a.bytes - i * kStretch;
            here ^= read_stretch(static_cast<const char*>(a.data) + i * kStretch, left < kStretch ? left : kStretch);
        }
        __atomic_fetch_xor(&mixed, here, __ATOMIC_RELAXED);
    });
    *a.mixed = mixed;
}

}  // namespace pagecli::PAGECLI_ISA
