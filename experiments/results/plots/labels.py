"""Labels at the points of a scatter plot with error bars, so that none covers another."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox


@dataclass(frozen=True)
class Point:
    """A point to be labelled, in data coordinates; `low` to `high` is its error bar."""

    x: float
    y: float
    low: float
    high: float
    label: str
    colour: str


@dataclass(frozen=True)
class Place:
    """Where a label may stand: its anchor's height, and how the text lies to it."""

    y: float
    offset: tuple[float, float]
    horizontal: str
    vertical: str


def label_points(
    figure: Figure,
    axes: Axes,
    points: Sequence[Point],
    size: float,
    unlabelled: Sequence[Point] = (),
) -> None:
    """Writes each point's label above or below its error bar, or beside its marker.

    Places are tried in that order, and the first that covers nothing drawn so far (points,
    error bars, other labels, the frame) is taken, or the one that covers least.

    Args:
      figure: with the axes.
      axes: where all is drawn but the labels.
      points: to label.
      size: of the text.
      unlabelled: other points, which labels must not cover either.
    """
    figure.canvas.draw()
    drawn = (*points, *unlabelled)
    taken = [box for point in drawn for box in _marks(figure, axes, point)]
    # Crowded points first: they have the fewest free places.
    for point in sorted(points, key=lambda p: _room(axes, p, points)):
        taken.append(_place(figure, axes, point, taken, size))


def _marks(figure: Figure, axes: Axes, point: Point) -> list[Bbox]:
    """The boxes, in pixels, that a point's marker and error bar cover."""
    unit = figure.dpi / 72
    x, y = axes.transData.transform((point.x, point.y))
    _, low = axes.transData.transform((point.x, point.low))
    _, high = axes.transData.transform((point.x, point.high))
    marker = Bbox.from_extents(x - 6 * unit, y - 6 * unit, x + 6 * unit, y + 6 * unit)
    bar = Bbox.from_extents(x - 4 * unit, low, x + 4 * unit, high)
    return [marker, bar]


def _room(axes: Axes, point: Point, points: Sequence[Point]) -> float:
    here = axes.transData.transform((point.x, point.y))
    others = [axes.transData.transform((p.x, p.y)) for p in points if p is not point]
    return min((math.dist(here, there) for there in others), default=0.0)


def _place(
    figure: Figure, axes: Axes, point: Point, taken: Sequence[Bbox], size: float
) -> Bbox:
    """Draws the label at the best place and returns the box that it covers."""
    tries: list[tuple[float, Annotation, Bbox]] = []
    frame = axes.get_window_extent()
    for place in _places(point):
        text = _annotate(axes, point, place, size)
        box = text.get_window_extent().padded(2)
        covered = sum(_overlap(box, other) for other in taken) + _outside(box, frame)
        tries.append((covered, text, box))
        if not covered:
            break
    _, best, box = min(tries, key=lambda attempt: attempt[0])
    for _, text, _ in tries:
        if text is not best:
            text.remove()
    return box


def _places(point: Point) -> Iterator[Place]:
    """Offsets are in typographic points."""
    yield from _above_and_below(point, 6)
    for dy in (0, 10, -10):
        yield Place(point.y, (10, dy), "left", "center")
        yield Place(point.y, (-10, dy), "right", "center")
    for distance in (22, 38):
        yield from _above_and_below(point, distance)


def _above_and_below(point: Point, distance: float) -> Iterator[Place]:
    yield Place(point.high, (0, distance), "center", "bottom")
    yield Place(point.low, (0, -distance), "center", "top")


def _annotate(axes: Axes, point: Point, place: Place, size: float) -> Annotation:
    return axes.annotate(
        point.label,
        (point.x, place.y),
        xytext=place.offset,
        textcoords="offset points",
        ha=place.horizontal,
        va=place.vertical,
        fontsize=size,
        color=tuple(0.75 * channel for channel in to_rgb(point.colour)),
        # A white edge, so that a grid line behind the text doesn't cut through it.
        path_effects=[patheffects.withStroke(linewidth=4, foreground="white")],
    )


def _overlap(a: Bbox, b: Bbox) -> float:
    common = Bbox.intersection(a, b)
    return 0.0 if common is None else common.width * common.height


def _outside(box: Bbox, frame: Bbox) -> float:
    inside = Bbox.intersection(box, frame)
    covered = 0.0 if inside is None else inside.width * inside.height
    # Floating-point dust isn't outside.
    return max(0.0, 10 * (box.width * box.height - covered) - 1e-6)
