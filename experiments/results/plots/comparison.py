"""A comparison or a reproduced table as a picture: accuracy against cost."""

from dataclasses import replace
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.methods import METHODS
from experiments.results import contents, report, wording
from experiments.results.contents import Comparison, Entry
from experiments.results.plots import style
from experiments.results.plots.labels import Point, label_points

# Points are drawn at least so far apart, in units of the baseline's cost.
APART = 0.035
# A published value is so far to the left of the point that it belongs to.
BESIDE = 0.03
DEAREST = "; where steps differ, the dearest"


def accuracy_against_cost(content: Comparison, path: Path) -> None:
    """Draws one labelled point per method and writes a PNG.

    Published values are hollow, beside what was measured.

    Args:
      content: of results.json; methods without a cost or a result are left out.
      path: where to write.
    """
    figure = style.figure()
    axes = figure.add_axes((0.08, 0.11, 0.9, 0.69))
    points = [
        point
        for name, entry in content["methods"].items()
        for point in _points(content, name, entry)
    ]
    has_published = any(report.published(content["methods"][name]) for name, _ in points)
    points = _side_by_side(points, APART + BESIDE * has_published)
    published = [
        (name, found)
        for name, point in points
        if (found := _published(content, name, point))
    ]
    _frame(axes, [*points, *published], wording.baseline_label(content))
    for name, point in points:
        _draw(axes, name, point)
    for name, point in published:
        _draw(axes, name, point, hollow=True)
    _write_titles(figure, axes, content, has_published)
    others = [point for _, point in published]
    label_points(figure, axes, [point for _, point in points], 12, others)
    style.save(figure, path)


def _points(content: Comparison, name: str, entry: Entry) -> list[tuple[str, Point]]:
    """The method's, unless it has no cost or no result."""
    values = contents.quoted(entry["summary"], wording.key(content))
    if "cost" not in entry or values["mean"] is None:
        return []
    mean, low, high = values["mean"], values["low"], values["high"]
    # Of one split there is no interval: it is None in a file, and NaN before.
    if entry["summary"]["splits"] == 1 or low is None or high is None:
        std = values["std_over_seeds"] or 0.0
        low, high = mean - std, mean + std
    x, _ = contents.against(entry["cost"], wording.baseline(content))
    method = METHODS[name]
    label = method.mark or entry["label"]
    return [(name, Point(x, 100 * mean, 100 * low, 100 * high, label, method.colour))]


def _published(content: Comparison, name: str, mine: Point) -> Point | None:
    """What somebody else got for a method, to the left of its own point."""
    figure = report.published(content["methods"][name])
    if figure is None:
        return None
    y, spread = figure.accuracy, figure.spread or 0.0
    return replace(mine, x=mine.x - BESIDE, y=y, low=y - spread, high=y + spread)


def _side_by_side(points: list[tuple[str, Point]], apart: float) -> list[tuple[str, Point]]:
    """Moves points of nearly equal cost apart, so that every error bar can be read."""
    moved: list[tuple[str, Point]] = []
    for name, point in sorted(points, key=lambda item: item[1].x):
        left = moved[-1][1].x + apart if moved else 0.0
        moved.append((name, replace(point, x=max(point.x, left))))
    return moved


def _frame(axes: Axes, points: list[tuple[str, Point]], baseline: str) -> None:
    """Limits with room for labels, and a line at the baseline's cost."""
    lows, highs = [p.low for _, p in points], [p.high for _, p in points]
    room = 0.18 * max(max(highs) - min(lows), 0.5)
    axes.set_ylim(min(lows) - room, max(highs) + room)
    xs = [p.x for _, p in points]
    axes.set_xlim(min(0.5, min(xs) - 0.35), max(2.35, max(xs) + 0.35))
    axes.axvline(1, color="#777777", lw=1.2, ls=style.DASHES, zorder=1)
    axes.annotate(
        f"{baseline}'s cost",
        (1, 0),
        xycoords=("data", "axes fraction"),
        xytext=(5, 6),
        textcoords="offset points",
        color=style.GREY,
        fontsize=10,
    )


def _draw(axes: Axes, name: str, point: Point, *, hollow: bool = False) -> None:
    method = METHODS[name]
    below, above = point.y - point.low, point.high - point.y
    axes.errorbar(
        [point.x],
        [point.y],
        yerr=[[below], [above]],
        color=method.colour,
        marker=method.marker,
        markersize=10,
        markerfacecolor="white" if hollow else method.colour,
        markeredgecolor=method.colour if hollow else "white",
        markeredgewidth=1.6 if hollow else 0.8,
        elinewidth=1.0 if hollow else 1.6,
        capsize=3.5,
        ls="none",
    )


def _write_titles(figure: Figure, axes: Axes, content: Comparison, hollow: bool) -> None:
    baseline = wording.baseline_label(content)
    quoted = wording.quoted(content)
    dearest = DEAREST if report.steps_differ(content) else ""
    style.frame(
        axes,
        f"floating-point operations per training step / {baseline}'s "
        f"(equal ones are drawn side by side{dearest})",
        f"{quoted}, %",
    )
    title = f"{wording.first_upper(quoted)} against the cost of a training step"
    meaning = "; hollow: published" if hollow else ""
    lines = [report.title(content), report.accuracy_note(content) + meaning]
    # Splits differ more than methods do: what counts is the paired difference.
    lines += [_difference(*row) for row in report.difference_rows(_first(content))]
    style.titles(figure, title, "\n".join(lines))


def _first(content: Comparison) -> Comparison:
    """The content with the first difference only, of methods that are shown."""
    shown = content["methods"].keys()
    both = [d for d in content["differences"] if {d["method"], d["minus"]} <= shown]
    return {**content, "differences": both[:1]}


def _difference(what: str, points: str, interval: str) -> str:
    # One pair has no interval, and says so in a table only.
    _, alone, over = interval.rpartition("none: ")
    return f"{what}: {points} points" + (f" ({over})" if alone else f", {interval}")
