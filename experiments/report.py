"""The comparison as tables, from the content of results.json.

Rows are plain strings, so that the terminal and the README show the same figures.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from experiments.evaluation import RADIUS

Content = Mapping[str, Any]

DIFFERENCE_HEADERS = ("difference in test accuracy, points", "mean", "95% interval")


def headers(content: Content) -> tuple[str, ...]:
    """Names of the columns; what "±" is, the notes say."""
    over_seeds = ("std over seeds",) if _splits(content) > 1 else ()
    costs = ("operations / SGD", "time / SGD", "sharpness")
    return ("method", "test accuracy %", *over_seeds, *costs)


def rows(content: Content) -> list[tuple[str, ...]]:
    """One row of cells per method."""
    return [_row(entry) for entry in content["methods"].values()]


def _row(entry: Content) -> tuple[str, ...]:
    summary = entry["summary"]
    std = _percent(summary["test_accuracy"]["std_over_seeds"])
    return (
        entry["label"],
        accuracy(summary),
        *((std,) if summary["splits"] > 1 else ()),
        *_cost(entry.get("cost")),
        _number(summary["sharpness"], ".4f"),
    )


def _splits(content: Content) -> int:
    return next(iter(content["methods"].values()))["summary"]["splits"]


def accuracy(summary: Content) -> str:
    """Mean, and the 95% interval over splits or, with one split, the spread of seeds."""
    values = summary["test_accuracy"]
    margin = _margin(values) if summary["splits"] > 1 else values["std_over_seeds"]
    return f"{_percent(values['mean'])} ± {_percent(margin)}"


def accuracy_note(content: Content) -> str:
    """What the number after ± is."""
    summary = next(iter(content["methods"].values()))["summary"]
    seeds = _counted(summary["seeds"], "seed")
    if summary["splits"] > 1:
        splits = summary["splits"]
        return f"mean and 95% interval over {splits} random splits, {seeds} each"
    return f"mean and standard deviation over {seeds}, one split"


def notes(content: Content) -> list[str]:
    """What a reader of the table needs to know."""
    overlap = (
        "Splits are drawn from the same images and overlap: the intervals are about other "
        "splits of these data, not about other data."
    )
    return [
        f"Test accuracy: {accuracy_note(content)}.",
        *([overlap] if _splits(content) > 1 else []),
        "Operations: XLA's count for a whole training step, optimizer included. Time: "
        "median over interleaved rounds, quartiles in brackets.",
        f"Sharpness: rise of the mean training loss at distance {RADIUS:g} along its "
        "gradient, the same measure for every method.",
        'K-SAM climbs and descends on the k of the batch with the highest loss; "no climb" '
        "descends on the highest quarter without a climb; random-subset SAM climbs on a "
        "random quarter; ESAM descends on the half whose loss rose most; Momentum-SAM "
        "climbs along past steps, without a gradient for it; remembered methods (rem.) "
        "rank examples by the loss that they had when last used.",
        *content.get("notes", []),
    ]


def _cost(cost: Content | None) -> tuple[str, str]:
    if cost is None:
        return "n/a", "n/a"
    time = cost["time_vs_sgd"]
    quartiles = f"[{time['lower_quartile']:.2f}, {time['upper_quartile']:.2f}]"
    return f"{cost['operations_vs_sgd']:.2f}", f"{time['median']:.2f} {quartiles}"


def difference_rows(content: Content) -> list[tuple[str, ...]]:
    """One row per paired difference, under DIFFERENCE_HEADERS."""
    labels = {name: entry["label"] for name, entry in content["methods"].items()}
    return [
        (
            f"{labels[item['method']]}, minus {labels[item['minus']]}",
            points(item["mean"]),
            bounds(item),
        )
        for item in content["differences"]
    ]


def bounds(item: Content) -> str:
    """A difference's interval, and what it is over."""
    if item["low"] is None:
        return f"none: one {item['over'].removesuffix('s')}"
    low, high = points(item["low"]), points(item["high"])
    return f"{low} to {high} (paired over {item['n']} {item['over']})"


def show(content: Content, console: Console) -> None:
    """Prints both tables and their notes."""
    console.print(_table(headers(content), rows(content), title(content)))
    for note in notes(content):
        console.print(note, style="dim", highlight=False)
    if content["differences"]:
        console.print(_table(DIFFERENCE_HEADERS, difference_rows(content)))


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> Table:
    table = Table(
        title=title or None, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD
    )
    first, *others = headers
    table.add_column(first)
    for header in others:
        table.add_column(header, justify="right")
    for row in rows:
        table.add_row(*row)
    return table


def made_on(content: Content, device: str = "") -> str:
    """The machine that the figures come from, the versions and the day.

    Args:
      content: of a file of results.
      device: an accelerator beside the processor, if there was one.
    """
    machine, versions = content["machine"], content["versions"]
    beside = f", {device}" if device else ""
    return (
        f"{machine['cores']} cores, {machine['cpu']}{beside}, {machine['system']}; "
        f"Python {versions['python']}, JAX {versions['jax']}; {content['date']}"
    )


def title(content: Content) -> str:
    """The dataset, its sizes, and what was trained."""
    data, protocol = content["dataset"], content["protocol"]
    noise = content["config"]["label_noise"]
    noisy = f", {noise:.0%} of the labels wrong" if noise else ""
    return (
        f"{data['title']}: {data['train']:,} training images{noisy}, "
        f"{data['test']:,} test images; {protocol['model']}, "
        f"{_counted(protocol['epochs'], 'epoch')}"
    )


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _margin(values: Content) -> float | None:
    return None if values["high"] is None else values["high"] - values["mean"]


def _number(value: float | None, form: str) -> str:
    return "n/a" if value is None else f"{value:{form}}"


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:.2f}"


def points(value: float | None) -> str:
    """Percentage points, with their sign."""
    # A plain hyphen as minus sign: terminals and Markdown align it.
    return "n/a" if value is None else f"{100 * value:+.2f}"
