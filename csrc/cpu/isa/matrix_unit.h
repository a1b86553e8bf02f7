// The matrix unit of AMX: eight tile registers of up to 16 rows of 64 bytes. A is [rows, k], C [rows, 16]; B holds 16 columns as a
// panel of packed weights does (packed_weight.h): row i has, of each column, its i-th two bfloat16 or four bytes of k.
//
// C is registers 0 to 3, A 4, B 6 and 7, and 5 either. Source: Intel, Instruction Set Extensions Programming
// Reference, chapter 3. Under PAGECLI_EMULATE_TILES (tests only) plain code does what the reference says each instruction. Sanitizers do
// not see what these instructions touch, so under them each row is touched by plain code first.
#pragma once

#include <stdint.h>
#include <string.h>

#include "vec.h"

namespace pagecli::PAGECLI_ISA {

constexpr int kUnitRows = 16;      // of a register
constexpr int kUnitRowBytes = 64;  // 32 k of bfloat16, 64 of bytes, 16 sums
constexpr int kUnitBytes = kUnitRows * kUnitRowBytes;

// What LDTILECFG reads.
struct alignas(64) TileShapes {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
};

// C 0 and 1 and A 4 are as high as the first block of rows, C 2 and 3 and A 5 as the second; without a second, all C as the first.
PAGECLI_INLINE TileShapes tile_shapes(int rows_of_first, int rows_of_second) {
    TileShapes shapes;
    const int lower = rows_of_second > 0 ? rows_of_second : rows_of_first;
    const int rows[8] = {rows_of_first, rows_of_first, lower, lower, rows_of_first, rows_of_second > 0 ? rows_of_second : kUnitRows,
                         kUnitRows,     kUnitRows};
    for (int i = 0; i < 8; ++i) {
        shapes.row_bytes[i] = kUnitRowBytes;
        shapes.rows[i] = static_cast<uint8_t>(rows[i]);
    }
    return shapes;
}

#if defined(__AMX_BF16__) && defined(__AMX_INT8__)

#define PAGECLI_HAS_MATRIX_UNIT 1

#if defined(PAGECLI_SANITIZE)
static thread_local uint8_t rows_of_tiles[8];

static inline void note_shapes(const TileShapes& shapes) { memcpy(rows_of_tiles, shapes.rows, sizeof rows_of_tiles); }

// Reads both ends of every row of a register's memory.
static inline void touch(int tile, const void* memory, int64_t stride) {
    for (int r = 0; r < rows_of_tiles[tile]; ++r) {
        const volatile char* row = static_cast<const volatile char*>(memory) + r * stride;
        (void)row[0];
        (void)row[kUnitRowBytes - 1];
    }
}
#else
PAGECLI_INLINE void note_shapes(const TileShapes&) {}
PAGECLI_INLINE void touch(int, const void*, int64_t) {}
#endif

PAGECLI_INLINE void set_shapes(const TileShapes& shapes) {
    note_shapes(shapes);
    __asm__ volatile("ldtilecfg %0" : : "m"(shapes));
}
PAGECLI_INLINE void release_tiles() { __asm__ volatile("tilerelease"); }

// By their names: GCC's intrinsics are macros that take no template's parameter. All volatile: they stay in the order they have here.
template <int tile>
PAGECLI_INLINE void tile_zero() {
    __asm__ volatile("tilezero %%tmm%c0" : : "i"(tile));
}
template <int tile>
PAGECLI_INLINE void tile_load(const void* from, int64_t stride) {
    touch(tile, from, stride);
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(tile) : "memory");
}
template <int tile>
PAGECLI_INLINE void tile_store(void* to, int64_t stride) {
    touch(tile, to, stride);
    __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(tile) : "memory");
}
template <int c, int a, int b>
PAGECLI_INLINE void tile_dot_bfloat16() {
    __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(c), "i"(a), "i"(b));
}
// Both with sign.
template <int c, int a, int b>
PAGECLI_INLINE void tile_dot_int8() {
    __asm__ volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(c), "i"(a), "i"(b));
}

#elif defined(PAGECLI_EMULATE_TILES)

#define PAGECLI_HAS_MATRIX_UNIT 1

struct EmulatedTiles {
    TileShapes shapes;
    alignas(64) uint8_t bytes[8][kUnitRows][kUnitRowBytes];
};
static thread_local EmulatedTiles emulated_tiles;

PAGECLI_INLINE void set_shapes(const TileShapes& shapes) {
    emulated_tiles.shapes = shapes;
    memset(emulated_tiles.bytes, 0, sizeof emulated_tiles.bytes);
}
PAGECLI_INLINE void release_tiles() {}

template <int tile>
void tile_zero() {
    memset(emulated_tiles.bytes[tile], 0, sizeof emulated_tiles.bytes[tile]);
}
template <int tile>
void tile_load(const void* from, int64_t stride) {
    for (int r = 0; r < emulated_tiles.shapes.rows[tile]; ++r)
        memcpy(emulated_tiles.bytes[tile][r], static_cast<const char*>(from) + r * stride, kUnitRowBytes);
}
template <int tile>
void tile_store(void* to, int64_t stride) {
    for (int r = 0; r < emulated_tiles.shapes.rows[tile]; ++r)
        memcpy(static_cast<char*>(to) + r * stride, emulated_tiles.bytes[tile][r], kUnitRowBytes);
}
// The even and the odd k of an instruction are summed apart, then together, then onto C.
template <int c, int a, int b>
void tile_dot_bfloat16() {
    EmulatedTiles& tiles = emulated_tiles;
    for (int row = 0; row < tiles.shapes.rows[c]; ++row) {
        for (int col = 0; col < 16; ++col) {
            float sums[2] = {0.0f, 0.0f}, total;
            for (int k = 0; k < 32; ++k) {
                uint16_t x, w;
                memcpy(&x, &tiles.bytes[a][row][k * 2], 2);
                memcpy(&w, &tiles.bytes[b][k / 2][col * 4 + k % 2 * 2], 2);
                sums[k % 2] += widen_bf16(x) * widen_bf16(w);  // the product is exact: fused or not is the same
            }
            memcpy(&total, &tiles.bytes[c][row][col * 4], 4);
            total += sums[0] + sums[1];
            memcpy(&tiles.bytes[c][row][col * 4], &total, 4);
        }
    }
}
template <int c, int a, int b>
void tile_dot_int8() {
    EmulatedTiles& tiles = emulated_tiles;
    for (int row = 0; row < tiles.shapes.rows[c]; ++row) {
        for (int col = 0; col < 16; ++col) {
            int32_t total;
            memcpy(&total, &tiles.bytes[c][row][col * 4], 4);
            for (int k = 0; k < 64; ++k)
                total += static_cast<int8_t>(tiles.bytes[a][row][k]) * static_cast<int8_t>(tiles.bytes[b][k / 4][col * 4 + k % 4]);
            memcpy(&tiles.bytes[c][row][col * 4], &total, 4);
        }
    }
}

#else

#define PAGECLI_HAS_MATRIX_UNIT 0

#endif

#if PAGECLI_HAS_MATRIX_UNIT

// The registers, of several tiles one after the other: their shapes are set where they are not those of the tile before, which takes
// as long as a tile's products of 256 k.
class TileUse {
  public:
    TileUse() = default;
    ~TileUse() {
        if (first_ >= 0) release_tiles();
    }
    TileUse(const TileUse&) = delete;
    TileUse& operator=(const TileUse&) = delete;

    void shape(int rows_of_first, int rows_of_second = 0) {
        if (rows_of_first == first_ && rows_of_second == second_) return;
        set_shapes(tile_shapes(rows_of_first, rows_of_second));
        first_ = rows_of_first;
        second_ = rows_of_second;
    }

  private:
    int first_ = -1, second_ = -1;
};

#else

class TileUse {};

#endif

}  // namespace pagecli::PAGECLI_ISA
