// How linear's work is cut into items, some tiles of rows times some panels, which threads take one after the other (linear_run.h).
#pragma once

#include <stdint.h>

#include "linear/tiles/linear_activations.h"
#include "linear/tiles/linear_tile.h"

namespace pagecli::PAGECLI_ISA {

constexpr int kMaxItemPanels = kMaxPanels;
constexpr int kSumsPerItem = 16384;  // floats, 64 KiB: 256 rows of 4 panels
constexpr int64_t kRowsInL2 = 768 << 10;  // bytes of laid out x, for a matrix unit, which reads them faster than L3 gives them

// How many tiles of rows and how many panels make one item, and the items' order: all rows of some panels after each other, or all
// panels of some rows. A core's L2 keeps the one while the other passes.
struct ItemShape {
    int64_t tiles, panels;
    int64_t num_row_items, num_panel_items, num_items;
    bool rows_first;
    // `wanted`: of several threads, items at least, so that threads end together, one slowed by others too. `most_rows` fit L2 when
    // they are laid out.
    ItemShape(const RowTiles& row_tiles, int wide, int64_t num_panels, int64_t wanted, int64_t most_rows = INT64_MAX) {
        panels = kMaxItemPanels / wide * wide;
        tiles = kSumsPerItem / (kMaxItemPanels * kPanelWidth) / row_tiles.max_rows();
        rows_first = row_tiles.total <= most_rows;
        if (!rows_first && tiles * row_tiles.max_rows() > most_rows) tiles = (most_rows + row_tiles.max_rows() - 1) / row_tiles.max_rows();
        if (tiles > row_tiles.count) tiles = row_tiles.count;
        while (count(row_tiles, num_panels) < wanted && tiles > 4) tiles = (tiles + 1) / 2;
        while (count(row_tiles, num_panels) < wanted && panels > wide) panels -= wide;
        num_items = count(row_tiles, num_panels);
    }

  private:
    int64_t count(const RowTiles& row_tiles, int64_t num_panels) {
        num_row_items = (row_tiles.count + tiles - 1) / tiles;
        num_panel_items = (num_panels + panels - 1) / panels;
        return num_row_items * num_panel_items;
    }
};

}  // namespace pagecli::PAGECLI_ISA
