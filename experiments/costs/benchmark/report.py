"""A model's measurements as tables, from the content of its JSON."""

from collections.abc import Callable, Sequence
from fractions import Fraction

from rich import box
from rich.console import Console
from rich.table import Table

from experiments.costs.benchmark.contenders import CONTENDERS, DEFAULT_KEEP
from experiments.costs.benchmark.contents import About, Case, Measured, Spread, Step, Steps

NOTES = (
    "time / SGD: against SGD's step on the same batch, in the same rounds; the median of "
    "the rounds' ratios, the quartiles in brackets.",
    "/ SGD at another size: against SGD on sub-batches of the size at which its time per "
    "example is least, as many as make up the batch.",
    "predicted: by counting passes, a forward pass as 1 and a backward pass as 2.",
    "operations and memory (temporary, besides weights and optimizer state): XLA's "
    "analysis of the whole compiled step.",
)


def show(content: Measured, console: Console) -> None:
    """Prints the tables of one model."""
    console.print(f"\n[bold]{title(content)}[/bold]", highlight=False)
    for name, headers, rows in tables(content):
        if rows:
            console.print(table(name, headers, rows))
    for case in too_large(content):
        console.print(f"too little memory: {case}", style="yellow", highlight=False)


def title(content: About) -> str:
    """The model, its size, the batch and the type of the computation."""
    workload, settings = content["workload"], content["settings"]
    return (
        f"{workload['title']}: {content['parameters']:,} parameters, "
        f"batch {workload['batch_size']}, {settings['dtype']}"
    )


def tables(content: Measured) -> list[tuple[str, Sequence[str], list[tuple[str, ...]]]]:
    """Title, headers and rows of each table; no rows where nothing was measured."""
    group = groups(content, "methods")[0]
    best = group.get("best_sub_batch")
    reference = f"/ SGD\nat {best['batch']}" if best else "/ best\nSGD"
    first = ("method", "share")
    costs = (
        *("\nms", "time\n/ SGD", reference, "pre-\ndicted", "oper.\n/ SGD"),
        *("\nMB", "memory\n/ SGD", "com-\npile s"),
    )
    keeps = [(c["keep"], c) for c in at_default_share(group) if c["keep"] is not None]
    keeps.sort(key=lambda pair: pair[1]["method"])
    several = keeps if len({keep for keep, _ in keeps}) > 1 else []
    shares, share_rows = _shares(group)
    sizes, size_rows = _sizes(content, "batch", _time)
    memories, memory_rows = _sizes(content, "memory", _megabytes)
    return [
        ("Methods", (*first, *costs), [_row(case) for case in default_cases(group)]),
        (
            "What to keep of the forward pass",
            (*first, "keep", *costs),
            [_row(case, keep) for keep, case in several],
        ),
        (
            "Time / SGD (predicted) by share of the examples",
            ("method", *shares),
            share_rows,
        ),
        ("Time / SGD by batch size", ("method", *sizes), size_rows),
        ("Temporary memory, MB, by batch size", ("method", *memories), memory_rows),
    ]


def groups(content: Measured, name: str) -> list[Steps]:
    """The groups of that name."""
    return [group for group in content["groups"] if group["name"] == name]


def at_default_share(group: Steps) -> list[Step]:
    """A group's cases on its own batch size with each method's first share."""
    return [
        case
        for case in group["cases"]
        if case["batch"] == group["batch"]
        and case["share"] == CONTENDERS[case["method"]].cost.share
    ]


def default_cases(group: Steps) -> list[Step]:
    """One case for each method."""
    return [c for c in at_default_share(group) if c["keep"] in (None, DEFAULT_KEEP)]


def swept_cases(group: Steps) -> dict[str, dict[float, Step]]:
    """For each method that was measured with several shares, its cases by share."""
    found: dict[str, dict[float, Step]] = {}
    for case in group["cases"]:
        if case["share"] is not None and case["keep"] in (None, DEFAULT_KEEP):
            found.setdefault(case["method"], {})[case["share"]] = case
    return {
        name: dict(sorted(cases.items())) for name, cases in found.items() if len(cases) > 1
    }


def too_large(content: Measured) -> list[str]:
    """What there was too little memory for, in words."""
    return [
        f"{case['label']}, batch {case['batch']}"
        for group in content["groups"]
        for case in group["cases"]
        if case["operations"] is None
        or (group["name"] != "memory" and case["seconds"] is None)
    ]


def share_in_words(case: Case) -> str:
    """Such as "k = 1/4"; "" for a method without a share."""
    if case["share"] is None:
        return ""
    name = CONTENDERS[case["method"]].cost.share_name
    return f"{name} = {fraction(case['share'])}"


def fraction(share: float) -> str:
    """Such as 1/4 for 0.25."""
    return str(Fraction(share).limit_denominator(1000))


def _row(case: Step, *more: str) -> tuple[str, ...]:
    seconds = case["seconds"]
    return (
        case["label"],
        share_in_words(case),
        *more,
        number(seconds and 1e3 * seconds["median"], ".3g"),
        ratio(case["time_vs_sgd"]),
        _median(case["time_vs_best_sub_batch"]),
        f"{case['predicted_vs_sgd']:.2f}",
        number(case["operations_vs_sgd"], ".2f"),
        _megabytes(case),
        number(case["temporary_vs_sgd"], ".2f"),
        f"{case['lower_seconds'] + case['compile_seconds']:.1f}",
    )


def _shares(group: Steps) -> tuple[list[str], list[tuple[str, ...]]]:
    swept = swept_cases(group)
    shares = sorted({share for cases in swept.values() for share in cases})
    rows: list[tuple[str, ...]] = []
    for cases in swept.values():
        cells = {
            share: f"{_time(case)} ({case['predicted_vs_sgd']:.2f})"
            for share, case in cases.items()
        }
        label = next(iter(cases.values()))["label"]
        rows.append((label, *(cells.get(share, "") for share in shares)))
    return [fraction(share) for share in shares], rows


def _sizes(
    content: Measured, name: str, cell: Callable[[Step], str]
) -> tuple[list[str], list[tuple[str, ...]]]:
    """Methods by batch size; the methods' own batch size is among the sizes."""
    found = groups(content, name)
    cases = [case for group in found for case in group["cases"]]
    wanted = dict.fromkeys(case["method"] for case in cases)
    if cases and name == "batch":
        cases += default_cases(groups(content, "methods")[0])
    sizes = sorted({case["batch"] for case in cases})
    cells = {(case["method"], case["batch"]): cell(case) for case in cases}
    labels = {case["method"]: case["label"] for case in cases}
    rows = [(labels[m], *(cells.get((m, s), "") for s in sizes)) for m in wanted]
    return [str(size) for size in sizes], rows


def _time(case: Step) -> str:
    return _median(case["time_vs_sgd"])


def _median(values: Spread | None) -> str:
    return number(values and values["median"], ".2f")


def ratio(values: Spread | None) -> str:
    """Median and quartiles."""
    if values is None:
        return "n/a"
    quartiles = f"[{values['lower_quartile']:.2f}, {values['upper_quartile']:.2f}]"
    return f"{values['median']:.2f} {quartiles}"


def _megabytes(case: Step) -> str:
    found = case["temporary_bytes"]
    return "n/a" if found is None else f"{found / 1e6:.{0 if found >= 1e7 else 1}f}"


def number(value: float | None, form: str) -> str:
    """In this format, or n/a."""
    return "n/a" if value is None else f"{value:{form}}"


def table(name: str, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """For the terminal; headers of words stand left, those of figures right."""
    made = Table(
        title=name,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 0, 0, 1),
    )
    words = ("method", "share", "keep")
    for header in headers:
        made.add_column(
            header, justify="left" if header in words else "right", no_wrap=True
        )
    for row in rows:
        made.add_row(*row)
    return made
