"""How steps grow, as tables for the terminal and for docs/growth.md."""

from experiments.configs.growth import FAMILIES
from experiments.costs.growth import breakeven
from experiments.costs.growth.breakeven import FIELDS, Sweep
from experiments.costs.growth.contents import Case, Growth, Step
from experiments.costs.growth.measuring import METHODS
from experiments.methods import without_share
from experiments.pages.benchmarks import how
from experiments.results import markdown

Table = tuple[str, tuple[str, ...], list[tuple[str, ...]]]
OURS = METHODS[1:]


def tables(content: Growth) -> list[Table]:
    """Title, headers and rows of what there is by now."""
    found = {name: breakeven.sweeps(content, name) for name in FAMILIES}
    made = [_grown(field, [each[field] for each in found.values()]) for field in FIELDS]
    made.append(_ends(found))
    counted = {
        n: each["batch"] for n, each in found.items() if len(each["batch"].cases) > 1
    }
    made.append(_why(counted))
    return [table for table in made if table[2]]


def block(content: Growth, folder: str) -> str:
    """The picture and the tables as Markdown."""
    parts = [
        f"![Time of a step against parameters, batch and devices]({folder}/growth.png)"
    ]
    for title, headers, rows in tables(content):
        parts += [f"**{title}**", markdown.table(headers, rows)]
    minutes = content["seconds"] / 60
    return "\n\n".join([*parts, f"Measured in {minutes:.0f} minutes. {how(content)}"])


def _grown(field: str, found: list[Sweep]) -> Table:
    names = [without_share(name) for name in OURS]
    headers = (
        f"model, {FIELDS[field]}",
        "SGD, ms",
        *(f"{name}: time / SGD" for name in names),
        *(f"{name}: operations / SGD, bytes / SGD" for name in names),
    )
    rows = [
        (_what(field, case), _milliseconds(case), *_ratios(case))
        for sweep in found
        for case in sweep.cases
    ]
    return f"Against {FIELDS[field]}", headers, rows


def _what(field: str, case: Case) -> str:
    name, millions = _short(case["model"]), f"{case['parameters'] / 1e6:.3g}M"
    if field == "parameters":
        return f"{name}, batch {case['batch']}: {millions}"
    if field == "batch":
        return f"{name}, {millions}: {case['batch']:,}"
    return f"{name}, {millions}, batch {case['batch']}: {case['devices']}"


def _short(model: str) -> str:
    return FAMILIES[model].title.split(",")[0]


def _milliseconds(case: Case) -> str:
    return f"{1e3 * case['steps']['sgd']['seconds']['median']:.3g}"


def _ratios(case: Case) -> list[str]:
    sgd, ours = case["steps"]["sgd"], [case["steps"][name] for name in OURS]
    return [*map(_spread, ours), *(_counts(step, sgd) for step in ours)]


def _spread(step: Step) -> str:
    found = step["time_vs_sgd"]
    return (
        f"{found['median']:.2f} ({found['lower_quartile']:.2f} to "
        f"{found['upper_quartile']:.2f})"
    )


def _counts(step: Step, sgd: Step) -> str:
    operations = step["operations"] / sgd["operations"]
    return f"{operations:.2f}, {step['bytes_moved'] / sgd['bytes_moved']:.2f}"


def _ends(found: dict[str, dict[str, Sweep]]) -> Table:
    headers = ("faster than SGD", *(f"{without_share(name)}" for name in OURS))
    rows = [
        (
            f"{_short(name)}, {FIELDS[field]}",
            *(_end(sweep, method) for method in OURS),
        )
        for name, each in found.items()
        for field, sweep in each.items()
        if len(sweep.cases) > 1
    ]
    return "Break-even", headers, rows


def _end(sweep: Sweep, method: str) -> str:
    """Where the method's step is the faster one."""
    ratios = sweep.ratios(method)
    if max(ratios) < 1:
        return "everywhere measured"
    if min(ratios) >= 1:
        return "nowhere measured"
    place = breakeven.crossing(sweep.values, ratios)
    assert place is not None
    millions = sweep.field == "parameters"
    about = f"{place / 1e6:.2g}M" if millions else f"{float(f'{place:.1g}'):,.0f}"
    return f"{'from' if ratios[-1] < 1 else 'up to'} about {about}"


def _why(found: dict[str, Sweep]) -> Table:
    headers = ("per step", *(without_share(name) for name in METHODS))
    rows = []
    for name, sweep in found.items():
        title = _short(name)
        moved = [
            breakeven.fixed_and_per_example(sweep, method, "bytes_moved")
            for method in METHODS
        ]
        counted = [
            breakeven.fixed_and_per_example(sweep, method, "operations")
            for method in METHODS
        ]
        rows += [
            (f"{title}: bytes moved per weight", *(f"{each[0]:.0f}" for each in moved)),
            (f"{title}: kB moved per example", *(f"{each[1] / 1e3:.0f}" for each in moved)),
            (
                f"{title}: millions of operations per example",
                *(f"{each[1] / 1e6:.1f}" for each in counted),
            ),
        ]
    return "Why: what the weights cost, and what the examples cost", headers, rows
