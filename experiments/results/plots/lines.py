"""Curves that are told apart by marker and line as well, with their names beside them."""

import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from experiments.results.plots import style

# Of curves that have the colour or the marker in common.
STYLES = ("-", (0, (5, 2)), (0, (1, 1.3)), (0, (6, 1.5, 1, 1.5)))
# So many marks a curve has, at most.
MARKS = 7
# Above this ratio of the highest value to the lowest an axis is logarithmic.
STEEP = 30
# A name, in inches from the axes: the sample of its line, from and to, and the text.
SAMPLE, NAME = (0.16, 0.62), 0.69
# Of a name: its size in points, its longest line in letters, and a line's height in those
# of its letters.
SIZE, LETTERS, LINE = 12, 24, 1.35
# Spaces that lines aren't broken at.
GLUED = "\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}"
# How much a band covers of what is below it: less, the more there are.
BAND, BANDS = 0.13, 0.8


class Curve(NamedTuple):
    """What is drawn as one line.

    Attributes:
      label: the name beside its end.
      colour, marker: as in `experiments.methods.METHODS`.
      at: where on the x axis, ascending: (n,).
      values: on the y axis, (n,); NaN where there is none.
      low, high: of a band around it, (n,); None: it has none.
    """

    label: str
    colour: str
    marker: str
    at: Float[np.ndarray, " n"]
    values: Float[np.ndarray, " n"]
    low: Float[np.ndarray, " n"] | None = None
    high: Float[np.ndarray, " n"] | None = None


def beside_names(note: str, curves: Sequence[Curve] = ()) -> tuple[Figure, Axes]:
    """A picture with room for names at the right, and for titles above.

    Higher than others if these curves have too many names for it.
    """
    figure = style.figure()
    names = sum(_inches_of(_broken(curve.label)) for curve in curves)
    figure.set_figheight(max(figure.get_figheight(), names / 0.85 + style.head(note)))
    left, bottom = 0.095, 0.726 / figure.get_figheight()
    size = 0.625, style.below(figure, note) - bottom
    return figure, figure.add_axes((left, bottom, *size))


def limits(curves: Sequence[Curve]) -> tuple[float, float]:
    """The lowest and the highest finite value, those of the bands included."""
    drawn = [part for curve in curves for part in (curve.values, curve.low, curve.high)]
    values = np.concatenate([part for part in drawn if part is not None])
    values = values[np.isfinite(values)]
    return float(values.min()), float(values.max())


def scale(axes: Axes, low: float, high: float) -> None:
    """A y axis from `low` to `high` with some room: logarithmic where it is steep."""
    if low > 0 and high > STEEP * low:
        axes.set_yscale("log")
        room = (high / low) ** 0.04
        axes.set_ylim(low / room, high * room)
        axes.yaxis.set_major_locator(LogLocator(numticks=9))
        axes.set_ylabel(f"{axes.get_ylabel()} (log scale)", fontsize=12)
    else:
        room = 0.05 * (high - low) or abs(high) or 1.0
        axes.set_ylim(0 if low >= 0 else low - room, high + room)


def draw(axes: Axes, curves: Sequence[Curve]) -> None:
    """Draws all curves, with their marks in different places."""
    alpha = min(BAND, BANDS / len(curves))
    every = enumerate(zip(curves, looks(curves), strict=True))
    for number, (curve, look) in every:
        if curve.low is not None and curve.high is not None:
            band = curve.at, curve.low, curve.high
            axes.fill_between(*band, color=curve.colour, alpha=alpha, lw=0)
        marks = _marks(len(curve.at), (number + 0.5) / len(curves))
        # Marks at the ends would be cut in half.
        axes.plot(curve.at, curve.values, markevery=marks, clip_on=False, **look)


def looks(curves: Sequence[Curve]) -> list[dict[str, Any]]:
    """Of each line, for matplotlib: told apart without colour as well."""
    styles: list[Any] = []
    for curve in curves:
        drawn = [*zip(styles, curves, strict=False)]
        alike = [
            taken
            for taken, other in drawn
            if curve.colour == other.colour or curve.marker == other.marker
        ]
        # Where both are the same the line alone tells them apart.
        twins = [
            taken
            for taken, other in drawn
            if (curve.colour, curve.marker) == (other.colour, other.marker)
        ]
        order = sorted(STYLES, key=alike.count)
        styles.append(min(order, key=twins.count))
    common = {"lw": 2.2, "ms": 8, "mec": "white", "mew": 0.7}
    return [
        {"color": curve.colour, "marker": curve.marker, "ls": style, **common}
        for curve, style in zip(curves, styles, strict=True)
    ]


def _marks(points: int, shift: float) -> list[int]:
    """Which points are marked: all, or some as far from each other as possible."""
    count = min(MARKS, points)
    return ((np.arange(count) + shift) / count * points).astype(int).tolist()


def name(axes: Axes, curves: Sequence[Curve], *, at_ends: bool = True) -> None:
    """Writes each name at the height where its curve ends, or near it if others are there.

    Args:
      axes: with limits and scales as they are to be.
      curves: as they were drawn.
      at_ends: whether they are; else the names are in their order, from the top.
    """
    width, height = _inches(axes)
    texts = [_broken(curve.label) for curve in curves]
    heights = [_inches_of(text) / height for text in texts]
    ends = [_end(axes, curve) for curve in curves]
    listed = (1 - np.cumsum(heights)).tolist()
    places = spread(ends if at_ends else listed, heights)
    begin, end = (1 + x / width for x in SAMPLE)
    across = {"transform": axes.transAxes, "clip_on": False}
    for curve, look, text, at, place in zip(
        curves, looks(curves), texts, ends, places, strict=True
    ):
        if at_ends:
            axes.plot([1, begin], [at, place], color=curve.colour, lw=1, **across)
        sample = [begin, (begin + end) / 2, end], [place] * 3
        axes.plot(*sample, markevery=[1], **look, **across)
        axes.text(
            1 + NAME / width,
            place,
            text,
            transform=axes.transAxes,
            fontsize=SIZE,
            va="center",
            # A little darker than the line: letters are thinner.
            color=tuple(0.75 * channel for channel in to_rgb(curve.colour)),
        )


def _broken(label: str) -> str:
    """In lines that fit beside the picture; "k = 1/4" stays together."""
    wrapper = textwrap.TextWrapper(LETTERS, break_long_words=False, break_on_hyphens=False)
    kept = label.replace(" = ", GLUED)
    return "\n".join(map(wrapper.fill, kept.split("\n"))).replace(GLUED, " = ")


def _inches_of(text: str) -> float:
    """How high a name is."""
    return (text.count("\n") + 1) * LINE * SIZE / 72


def _inches(axes: Axes) -> tuple[float, float]:
    box, figure = axes.get_position(), axes.get_figure(root=True)
    assert figure is not None
    width, height = figure.get_size_inches()
    return box.width * width, box.height * height


def _end(axes: Axes, curve: Curve) -> float:
    """The height of its last value that there is, from 0 to 1."""
    known = np.flatnonzero(np.isfinite(curve.values))
    value = curve.values[known[-1]] if len(known) else axes.get_ylim()[0]
    pixels = axes.transData.transform((float(curve.at[-1]), float(value)))
    _, height = axes.transAxes.inverted().transform(pixels)
    return float(np.clip(height, 0, 1))


def spread(places: Sequence[float], heights: Sequence[float]) -> list[float]:
    """The places from 0 to 1 nearest to the given ones, so that no two names meet.

    The nearest by the sum of squares: a monotone regression of what each place is above
    the lowest that it could have. If there isn't room for all, they go on above 1.

    Args:
      places: of the names' middles.
      heights: of the names.
    """
    # Takes a third of a second to import, and is needed here only.
    from scipy.optimize import isotonic_regression

    order = np.argsort(places, kind="stable")
    high = np.array(heights)[order]
    least = np.concatenate([[0.0], np.cumsum((high[1:] + high[:-1]) / 2)])
    moved = isotonic_regression(np.array(places)[order] - least).x
    found = np.empty(len(places))
    found[order] = np.clip(moved, 0, max(0.0, 1 - least[-1])) + least
    return found.tolist()
