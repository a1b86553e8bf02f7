"""The pool as a map: a cell a block, coloured by how full it is and whether sequences share it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.patches import Patch

from pagecli.profiler.recording.downsampling import Series
from pagecli.profiler.recording.records import BlockMap
from pagecli.profiler.report.chart_style import MUTED, Chart, new_figure

MAX_MAPS = 4
MAX_CELLS = 60_000  # of a map; larger pools show neighbouring blocks as one cell
_IMAGE_PIXELS = 560  # width of a map's image
_ASPECT = 2.2  # cells across for each cell down
FREE, CACHED = -1, -2

# Red, green, blue, opacity of 0 to 1. Free cells are faint on any background.
_FREE = (0.5, 0.53, 0.57, 0.16)
_CACHED = (0.80, 0.47, 0.65, 1.0)
_OWN = ((0.80, 0.89, 0.95, 1.0), (0.0, 0.45, 0.70, 1.0))  # nearly empty, full
_SHARED = ((0.99, 0.88, 0.66, 1.0), (0.84, 0.37, 0.0, 1.0))


def chosen_maps(maps: Sequence[BlockMap]) -> list[BlockMap]:
    """At most MAX_MAPS of them: the fullest, and others spread evenly over the run, in order of time."""
    if len(maps) <= MAX_MAPS:
        return list(maps)
    fullest = max(range(len(maps)), key=lambda at: sum(filled >= 0 for filled in maps[at].filled))
    spread = [round(at) for at in np.linspace(0, len(maps) - 1, MAX_MAPS)]
    nearest = min(range(MAX_MAPS), key=lambda at: abs(spread[at] - fullest))
    spread[nearest] = fullest
    return [maps[at] for at in sorted(set(spread))]


def block_maps(maps: Sequence[BlockMap]) -> Chart | None:
    """The pool at some moments of the run."""
    shown = [block_map for block_map in chosen_maps(maps) if block_map.filled]
    if not shown:
        return None
    columns = 1 if len(shown) == 1 else 2
    rows = -(-len(shown) // columns)
    figure, panels = new_figure(0.75 + (2.9 if columns == 1 else 2.15) * rows, rows, columns)
    for axes in panels:
        axes.axis("off")
    for index, (axes, block_map) in enumerate(zip(panels, shown, strict=False)):
        image = cells_image(block_map)
        axes.imshow(image, interpolation="none", aspect="equal", gid=f"map-{index}")
        axes.set_title(f"Step {block_map.step:,}: {_summary(block_map)}", fontsize=9)
    figure.legend(handles=_legend(shown), loc="outside lower left", ncols=6)
    cells = -(-len(shown[0].filled) // _blocks_a_cell(len(shown[0].filled)))
    grouped = "" if cells == len(shown[0].filled) else f" A cell is {_blocks_a_cell(len(shown[0].filled))} neighbouring blocks."
    return Chart(
        "block-maps",
        "The pool of KV blocks at chosen moments",
        f"A cell is a block of {shown[0].block_size} slots, in the pool's order, row by row; darker is fuller.{grouped}",
        "; ".join(f"step {block_map.step:,}: {_summary(block_map)}" for block_map in shown) + ".",
        figure,
        ("step", "blocks", "used", "full", "partly filled", "shared", "cached", "free"),
        [_row(block_map) for block_map in shown],
    )


def _legend(shown: Sequence[BlockMap]) -> list[Patch]:
    entries = [("nearly empty", _OWN[0]), ("full", _OWN[1])]
    if any(count > 1 for block_map in shown for count in block_map.ref_counts):
        entries += [("shared, nearly empty", _SHARED[0]), ("shared, full", _SHARED[1])]
    if any(filled == CACHED for block_map in shown for filled in block_map.filled):
        entries.append(("cached, in no block table", _CACHED))
    return [Patch(color=colour, label=name) for name, colour in entries] + [
        Patch(facecolor=_FREE, edgecolor=MUTED, linewidth=0.4, label="free")
    ]


def _counts(block_map: BlockMap) -> dict[str, int]:
    filled = np.array(block_map.filled)
    return {
        "blocks": len(filled),
        "used": int((filled >= 0).sum()),
        "full": int((filled == block_map.block_size).sum()),
        "partly filled": int(((filled >= 0) & (filled < block_map.block_size)).sum()),
        "shared": int((np.array(block_map.ref_counts) > 1).sum()),
        "cached": int((filled == CACHED).sum()),
        "free": int((filled == FREE).sum()),
    }


def _summary(block_map: BlockMap) -> str:
    counts = _counts(block_map)
    shared = f", {counts['shared']:,} shared" if counts["shared"] else ""
    return f"{counts['used']:,} of {counts['blocks']:,} blocks used{shared}"


def _row(block_map: BlockMap) -> tuple[str, ...]:
    return f"{block_map.step:,}", *(f"{count:,}" for count in _counts(block_map).values())


def _blocks_a_cell(num_blocks: int) -> int:
    return -(-num_blocks // MAX_CELLS)


def cell_colours(block_map: BlockMap) -> Series:
    """[cells, 4]: red, green, blue and opacity of each cell; a cell of several blocks has the mean of their colours."""
    filled = np.array(block_map.filled)
    shared = np.array(block_map.ref_counts) > 1
    fullness = np.clip(filled / block_map.block_size, 0, 1)[:, None]
    own, both = (np.array(low) + fullness * (np.array(high) - np.array(low)) for low, high in (_OWN, _SHARED))
    colours = np.where(shared[:, None], both, own)
    colours[filled == FREE] = _FREE
    colours[filled == CACHED] = _CACHED
    group = _blocks_a_cell(len(filled))
    return colours if group == 1 else np.add.reduceat(colours, range(0, len(filled), group)) / _group_sizes(len(filled), group)


def _group_sizes(num_blocks: int, group: int) -> Any:
    sizes = np.full(-(-num_blocks // group), group)
    sizes[-1] = num_blocks - group * (len(sizes) - 1)
    return sizes[:, None]


def cells_image(block_map: BlockMap) -> Series:
    """[height, width, 4] pixels: the cells row by row with a gap between them where there is room for one."""
    colours = cell_colours(block_map)
    across = max(1, min(len(colours), round((len(colours) * _ASPECT) ** 0.5)))
    down = -(-len(colours) // across)
    pixels = max(1, _IMAGE_PIXELS // across)
    grid = np.zeros((down * across, 4))
    grid[: len(colours)] = colours
    image = grid.reshape(down, across, 4).repeat(pixels, axis=0).repeat(pixels, axis=1)
    gap = 0 if pixels < 4 else 1 + pixels // 16
    for offset in range(gap):
        image[offset::pixels, :, 3] = 0
        image[:, offset::pixels, 3] = 0
    return image
