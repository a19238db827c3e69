"""Comparisons and reproduced tables, from the content of results.json.

Rows are plain strings, so that the terminal and the README show the same figures.
"""

from collections.abc import Sequence

from experiments.configs.experiment import Published
from experiments.judging.rise import RADIUS
from experiments.methods import METHODS, explanations
from experiments.results import contents, wording
from experiments.results.contents import (
    Bounds,
    Comparison,
    Entry,
    Interval,
    StepCost,
    Summary,
    Table,
)
from experiments.results.listing import accuracy as printed
from experiments.results.listing import sources
from experiments.shell.formats import Made


def difference_headers(content: Comparison) -> tuple[str, ...]:
    """Names of the columns of the paired differences."""
    return (f"difference in {wording.quoted(content)}, points", "mean", "95% interval")


def headers(content: Table) -> tuple[str, ...]:
    """Names of the columns; what "±" is, the notes say."""
    number = ("n",) if _is_reproduced(content) else ()
    over_seeds = ("std over seeds",) if _splits(content) > 1 else ()
    base = wording.baseline_label(content)
    costs = (f"operations / {base}", f"time / {base}", "sharpness")
    published = ("published %",) if _sources(content) else ()
    quoted = f"{wording.quoted(content)} %"
    return ("method", *number, quoted, *over_seeds, *costs, *published)


def rows(content: Table) -> list[tuple[str, ...]]:
    """One row of cells per method."""
    return [_row(content, name, entry) for name, entry in content["methods"].items()]


def _row(content: Table, name: str, entry: Entry) -> tuple[str, ...]:
    summary, known = entry["summary"], _sources(content)
    quoted = wording.key(content)
    std = _percent(contents.quoted(summary, quoted)["std_over_seeds"])
    return (
        entry["label"] + _failed(entry),
        *((str(summary["seeds"]),) if _is_reproduced(content) else ()),
        accuracy(summary, quoted),
        *((std,) if summary["splits"] > 1 else ()),
        *_cost(entry.get("cost"), wording.baseline(content), at_most=_differ(name)),
        _number(summary["sharpness"], ".2g"),
        *((_published(entry, known),) if known else ()),
    )


def _is_reproduced(content: Table) -> bool:
    """Whether it is a table of `experiments.reproduce`, in which runs may have failed."""
    return "table" in content


def _failed(entry: Entry) -> str:
    """How many runs don't count."""
    finished, failed = entry["summary"]["seeds"], len(entry.get("failed", ()))
    return f" ({failed} of {finished + failed} failed)" if failed else ""


def _published(entry: Entry, known: Sequence[str]) -> str:
    figure = published(entry)
    return f"{printed(figure)} [{known.index(figure.source) + 1}]" if figure else "-"


def published(entry: Entry) -> Published | None:
    """What somebody else got with a method's settings, if that is known."""
    found = entry.get("published")
    return Published(**found) if found else None


def source_notes(content: Table) -> list[str]:
    """Where published figures are printed, under the numbers that the table has."""
    return [f"[{i}] {source}." for i, source in enumerate(_sources(content), start=1)]


def _sources(content: Table) -> list[str]:
    return sources(published(entry) for entry in content["methods"].values())


def _splits(content: Table) -> int:
    return next(iter(content["methods"].values()))["summary"]["splits"]


def accuracy(summary: Summary, key: str = "test_accuracy") -> str:
    """Mean, and the 95% interval over splits or, with one split, the spread of seeds."""
    values = contents.quoted(summary, key)
    margin = _margin(values) if summary["splits"] > 1 else values["std_over_seeds"]
    spread = "" if margin is None else f" ± {_percent(margin)}"
    return f"{_percent(values['mean'])}{spread}"


def accuracy_note(content: Table) -> str:
    """What the number after ± is."""
    counts = {entry["summary"]["seeds"] for entry in content["methods"].values()}
    # They differ where runs have failed.
    seeds = counted(counts.pop(), "seed") if len(counts) == 1 else "n seeds"
    if (splits := _splits(content)) > 1:
        return f"mean and 95% interval over {splits} random splits, {seeds} each"
    where = "after the last epoch" if _is_reproduced(content) else "one split"
    if seeds == "1 seed":
        return f"one run each, {where}"
    return f"mean and standard deviation over {seeds}, {where}"


def notes(content: Table) -> list[str]:
    """What a reader of the table needs to know."""
    overlap = (
        "Splits are drawn from the same images and overlap: the intervals are about other "
        "splits of these data, not about other data."
    )
    return [
        f"{wording.first_upper(wording.quoted(content))}: {accuracy_note(content)}.",
        *([overlap] if _splits(content) > 1 else []),
        "Operations: XLA's count for a whole training step, optimizer included"
        f"{_dearest(content)}. Time: median over interleaved rounds, quartiles in "
        "brackets.",
        f"Sharpness: rise of the mean training loss at distance {RADIUS:g} along its "
        "gradient, the same measure for every method.",
        *_explained(content),
        *content["notes"],
    ]


def _dearest(content: Table) -> str:
    if steps_differ(content):
        return "; \N{LESS-THAN OR EQUAL TO}: of the dearest step, where a method's differ"
    return ""


def steps_differ(content: Table) -> bool:
    """Whether those of one of its methods do."""
    return any(_differ(name) for name in content["methods"])


def _differ(name: str) -> bool:
    """Whether a method's steps do, of which XLA counts the dearest."""
    return name in METHODS and METHODS[name].at is not None


def _explained(content: Table) -> list[str]:
    """What the methods in the table are, those whose names don't say it."""
    words = explanations(list(content["methods"]))
    return [f"{'; '.join(words)}."] if words else []


def _cost(cost: StepCost | None, baseline: str, *, at_most: bool) -> tuple[str, str]:
    if cost is None:
        return "n/a", "n/a"
    operations, time = contents.against(cost, baseline)
    quartiles = f"[{time['lower_quartile']:.2f}, {time['upper_quartile']:.2f}]"
    bound = "\N{LESS-THAN OR EQUAL TO} " if at_most else ""
    return f"{bound}{operations:.2f}", f"{time['median']:.2f} {quartiles}"


def difference_rows(content: Comparison) -> list[tuple[str, ...]]:
    """One row per paired difference, under `difference_headers`."""
    labels = {name: entry["label"] for name, entry in content["methods"].items()}
    return [
        (
            f"{labels[item['method']]}, minus {labels[item['minus']]}",
            points(item["mean"]),
            bounds(item),
        )
        for item in content["differences"]
    ]


def bounds(item: Bounds) -> str:
    """A difference's interval, and what it is over."""
    if item["low"] is None:
        return f"none: one {item['over'].removesuffix('s')}"
    low, high = points(item["low"]), points(item["high"])
    return f"{low} to {high} (paired over {item['n']} {item['over']})"


def accelerator(content: Made) -> str:
    """What `made_on` is to name beside the processor; "" if there was nothing."""
    machine = content["machine"]
    return "" if machine["backend"] == "cpu" else machine["device"]


def made_on(content: Made, device: str = "") -> str:
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


def title(content: Table) -> str:
    """The dataset, its sizes, and what was trained."""
    data, protocol = content["dataset"], content["protocol"]
    noise = content["config"]["label_noise"]
    noisy = f", {noise:.0%} of the labels wrong" if noise else ""
    things = wording.things(content)
    return (
        f"{data['title']}: {data['train']:,} training {things}{noisy}, "
        f"{data['test']:,} {wording.judged_on(content)} {things}; {protocol['model']}, "
        f"{counted(protocol['epochs'], 'epoch')}"
    )


def counted(number: int, noun: str) -> str:
    """Such as 1 seed, or 5 seeds."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _margin(values: Interval) -> float | None:
    mean, high = values["mean"], values["high"]
    return None if mean is None or high is None else high - mean


def _number(value: float | None, form: str) -> str:
    return "n/a" if value is None else f"{value:{form}}"


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:.2f}"


def points(value: float | None) -> str:
    """Percentage points, with their sign."""
    # A plain hyphen as minus sign: terminals and Markdown align it.
    return "n/a" if value is None else f"{100 * value:+.2f}"
