"""The curves of one run as a picture of four panels."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.judging.scores import SCORES
from experiments.methods.palette import BLACK, BLUE, GREEN, ORANGE, PURPLE, VERMILLION
from experiments.results import wording
from experiments.results.plots import GRID, TEXT
from experiments.training.harness.contents import Record


class Part(NamedTuple):
    """Examples that are evaluated: their key, name in the legend, and colour."""

    key: str
    name: str
    colour: str


Curve = tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]

# Up to so many points are marked: with more, the marks would be a thick line.
MARKED = 30
GREY = "#888888"
# A curve of many noisy points is drawn faint, below its running mean over 1/50 of it.
SMOOTHED = 50


def draw(
    path: Path,
    titles: tuple[str, str],
    train: Sequence[Record],
    evaluations: Sequence[Record],
    best_epoch: float | None = None,
    metric: str = "accuracy",
    judged_on: str = "test",
) -> None:
    """Writes a PNG: loss, the metric, sharpness and norms over epochs.

    Where the method measures no sharpness, that panel shows the learning rate.

    Args:
      path: where to write.
      titles: the heading, and the line below it.
      train: records of training.
      evaluations: records of evaluations; one is enough.
      best_epoch: is marked, unless None.
      metric: one of `experiments.judging.scores`.
      judged_on: what the examples are called that results are quoted on.
    """
    parts = (
        Part("train", "training", BLUE),
        Part("validation", "validation", ORANGE),
        Part("test", judged_on, VERMILLION),
    )
    figure = Figure(figsize=(11, 8.2), dpi=150)
    axes = figure.subplots(2, 2)
    # Room for the heading above, and for the axes' titles.
    figure.subplots_adjust(0.075, 0.075, 0.98, 0.845, wspace=0.2, hspace=0.36)
    last = max((record["epoch"] for record in (*train, *evaluations)), default=1)
    for panel in axes.flat:
        _frame(panel, last)
    _losses(axes[0, 0], train, evaluations, parts)
    _scores(axes[0, 1], evaluations, parts, metric, best_epoch)
    if len(_curve(train, "sharpness")[0]):
        _sharpness(axes[1, 0], train)
    else:
        _learning_rate(axes[1, 0], train)
    _norms(axes[1, 1], train)
    heading, below = titles
    figure.text(0.02, 0.945, heading, fontsize=17, fontweight="bold", color=TEXT)
    figure.text(0.02, 0.93, below, fontsize=11, color="#555555", va="top")
    figure.savefig(path)


def _frame(axes: Axes, last: float) -> None:
    axes.set_xlim(0, last)
    axes.margins(y=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=last > 2))
    axes.set_xlabel("epoch", fontsize=11)
    axes.grid(color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=10.5, colors=TEXT)


def _title(axes: Axes, title: str, unit: str) -> None:
    axes.set_title(title, fontsize=12.5, color=TEXT, loc="left", pad=8)
    axes.set_ylabel(unit, fontsize=11)


def _legend(axes: Axes) -> None:
    """Names the curves, or says that there is none."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=10, framealpha=0.85, edgecolor="none")
    if not axes.lines:
        axes.set_yticks([])
        axes.text(
            0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", color=GREY
        )


def _losses(
    axes: Axes,
    train: Sequence[Record],
    evaluations: Sequence[Record],
    parts: Sequence[Part],
) -> None:
    _title(axes, "Loss", "mean over examples")
    curve = _curve(train, "loss")
    _noisy(axes, curve, GREY, "batches, as trained on")
    _log_where_steep(axes, curve[1])
    for part in parts:
        curve = _curve(evaluations, f"{part.key}_loss")
        _evaluated(axes, curve, part.colour, part.name)
    _legend(axes)


def _scores(
    axes: Axes,
    evaluations: Sequence[Record],
    parts: Sequence[Part],
    metric: str,
    best_epoch: float | None,
) -> None:
    score = SCORES[metric]
    _title(axes, wording.first_upper(score.title), f"{score.axis}, %")
    for part in parts:
        epochs, values = _curve(evaluations, f"{part.key}_{metric}")
        _evaluated(axes, (epochs, 100 * values), part.colour, part.name)
    if best_epoch is not None:
        dashes = (0, (4, 3))
        axes.axvline(best_epoch, color=GREY, lw=1.2, ls=dashes, label="best checkpoint")
    _legend(axes)
    _leave_out_the_beginning(axes)


def _sharpness(axes: Axes, train: Sequence[Record]) -> None:
    _title(axes, "Sharpness that the method sees", "perturbed loss minus loss")
    _noisy(axes, _curve(train, "sharpness"), PURPLE)
    _legend(axes)


def _learning_rate(axes: Axes, train: Sequence[Record]) -> None:
    _title(axes, "Learning rate (this method measures no sharpness)", "step size")
    _noisy(axes, _curve(train, "learning_rate"), PURPLE)
    _legend(axes)


def _norms(axes: Axes, train: Sequence[Record]) -> None:
    curves = {
        "gradient": (_curve(train, "gradient_norm"), GREEN),
        "perturbation": (_curve(train, "perturbation_norm"), BLACK),
    }
    known = {name: pair for name, pair in curves.items() if len(pair[0][0])}
    _title(axes, "Norms", "Euclidean norm")
    for name, (curve, colour) in known.items():
        _noisy(axes, curve, colour, name)
    # They differ by orders of magnitude.
    if known and all(values.min() > 0 for (_, values), _ in known.values()):
        axes.set_yscale("log")
    _legend(axes)


def _curve(records: Sequence[Record], key: str) -> Curve:
    """Epochs and values, where the value is known."""
    known = [record for record in records if record.get(key) is not None]
    epochs = [record["epoch"] for record in known]
    return np.array(epochs, float), np.array([record[key] for record in known], float)


def _noisy(axes: Axes, curve: Curve, colour: str, name: str | None = None) -> None:
    """One line; of many points also their running mean."""
    if not len(curve[0]):
        return
    window = max(1, len(curve[0]) // SMOOTHED)
    if window > 1:
        axes.plot(*curve, color=colour, lw=0.8, alpha=0.3)
        curve = _means(curve[0], window), _means(curve[1], window)
    mark = "o" if len(curve[0]) == 1 else None
    axes.plot(*curve, color=colour, lw=1.8, marker=mark, label=name)


def _means(
    values: Float[np.ndarray, " n"], window: int
) -> Float[np.ndarray, " n-{window}+1"]:
    return np.lib.stride_tricks.sliding_window_view(values, window).mean(-1)


def _evaluated(axes: Axes, curve: Curve, colour: str, name: str) -> None:
    if not len(curve[0]):
        return
    mark = "o" if len(curve[0]) <= MARKED else None
    # The last point is at the frame: its mark must not be cut in half.
    axes.plot(
        *curve, color=colour, lw=1.8, marker=mark, ms=5, label=name, clip_on=mark is None
    )


def _leave_out_the_beginning(axes: Axes) -> None:
    """A long run's first epochs would press the rest, which is of interest, together."""
    curves = [np.asarray(line.get_ydata()) for line in axes.lines]
    long = [values for values in curves if len(values) > MARKED]
    if long:
        low = min(np.quantile(values, 0.05) for values in long)
        high = max(values.max() for values in long)
        room = 0.08 * (high - low) or 1
        axes.set_ylim(low - room, high + room)


def _log_where_steep(axes: Axes, values: Float[np.ndarray, " n"]) -> None:
    """A loss that begins far above all others would press those onto the axis."""
    if len(values) and values.min() > 0 and values.max() > 20 * np.median(values):
        axes.set_yscale("log")


# Never a window: this runs on servers, and in tests.
matplotlib.use("agg")
