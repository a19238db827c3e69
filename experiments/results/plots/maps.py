"""The loss over a plane as a map: levels, colours and contours, the same in all panels."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox, BboxBase

from experiments.results.plots import style

# Ordered for any kind of colour vision, and in grey.
COLOURS = colormaps["viridis"]
# Levels within a decade: the finest of these that makes no more than so many.
STEPS = (
    (1.0, 1.25, 1.6, 2.0, 2.5, 3.2, 4.0, 5.0, 6.3, 8.0),
    (1.0, 1.5, 2.0, 3.0, 5.0, 7.0),
    (1.0, 2.0, 5.0),
    (1.0, 3.0),
    (1.0,),
)
MOST = 17
# So far below the highest loss the levels end.
DECADES = 8


class Map(NamedTuple):
    """What was drawn: the coloured areas, and the contours' values."""

    areas: QuadContourSet
    values: list[Text]

    def make_way(self, boxes: Sequence[BboxBase] = ()) -> None:
        """Hides values where something else is, or another value, or the frame."""
        taken, frame = list(boxes), self.areas.axes.bbox
        for value in self.values:
            box = value.get_window_extent()
            inside = frame.count_contains(box.corners()) == len(box.corners())
            value.set_visible(inside and not box.count_overlaps(taken))
            if value.get_visible():
                taken.append(box)


def levels(losses: Sequence[Float[np.ndarray, "h w"]]) -> Float[np.ndarray, " n"]:
    """Round numbers, evenly spread on a log scale, from below the losses to above."""
    values = np.concatenate([np.ravel(each) for each in losses])
    high = float(values[np.isfinite(values)].max())
    low = max(float(values[np.isfinite(values)].min()), high * 10.0**-DECADES)
    every = [_round_numbers(low, high, steps) for steps in STEPS]
    return next((found for found in every if len(found) <= MOST), every[-1])


def _round_numbers(
    low: float, high: float, steps: Sequence[float]
) -> Float[np.ndarray, " n"]:
    """The last one up to `low`, all between, and the first one above `high`."""
    first, last = np.floor(np.log10(low)), np.ceil(np.log10(high))
    powers = 10.0 ** np.arange(first - 1, last + 2)
    numbers = np.outer(powers, steps).ravel()
    begin, end = np.searchsorted(numbers, [low, high], "right")
    return numbers[begin - 1 : end + 1]


def draw(
    axes: Axes,
    xs: Float[np.ndarray, " w"],
    ys: Float[np.ndarray, " h"],
    losses: Float[np.ndarray, "h w"],
    levels: Float[np.ndarray, " n"],
) -> Map:
    """Draws areas between levels, and contours, some of them with their values."""
    # What is below all levels is as blue as what is just above; what isn't finite, white.
    shown = np.ma.masked_invalid(np.where(losses < levels[0], levels[0], losses))
    norm = BoundaryNorm(levels, COLOURS.N)
    areas = axes.contourf(xs, ys, shown, levels=levels, cmap=COLOURS, norm=norm)
    inner = levels[1:-1]
    contours = axes.contour(xs, ys, shown, levels=inner, colors="white", linewidths=0.8)
    # Values are placed by what the contours look like on the screen.
    axes.set_aspect("equal")
    axes.apply_aspect()
    values = axes.clabel(
        contours, levels=_named(inner), fmt=_short, fontsize=11, inline=False
    )
    for text in values:
        text.set_color(style.TEXT)
        text.set_path_effects(style.edge())
    axes.tick_params(labelsize=11, colors=style.TEXT)
    drawn = Map(areas, list(values))
    drawn.make_way()
    return drawn


def _named(levels: Float[np.ndarray, " n"]) -> Float[np.ndarray, " m"]:
    """Powers of ten; every third level where there aren't two of those."""
    powers = np.log10(levels)
    tens = levels[np.isclose(powers, np.round(powers))]
    return tens if len(tens) > 1 else levels[::3]


def bar(figure: Figure, panels: Sequence[Axes], drawn: Map) -> None:
    """One bar beside all maps, as high as they are together, with every level's value.

    Args:
      figure: with the maps.
      panels: the maps' axes.
      drawn: any of the maps.
    """
    every = Bbox.union([axes.get_position() for axes in panels])
    inch = 1 / figure.get_figwidth()
    box = every.x1 + 0.2 * inch, every.y0, 0.2 * inch, every.height
    areas = drawn.areas
    found = figure.colorbar(areas, cax=figure.add_axes(box), spacing="uniform")
    found.set_ticks(list(areas.levels), labels=[_short(level) for level in areas.levels])
    found.ax.tick_params(labelsize=11, colors=style.TEXT)
    found.ax.minorticks_off()
    found.set_label("mean training loss", fontsize=12)


def _short(level: float) -> str:
    return f"{level:.3g}".replace("e-0", "e-").replace("e+0", "e+")
