"""The benchmark's results as Markdown, for a page of the documentation."""

import re
from collections.abc import Sequence

from experiments.costs.benchmark import report
from experiments.costs.benchmark.contenders import CONTENDERS
from experiments.costs.benchmark.contents import Benchmark, Measured, Step
from experiments.results.markdown import table
from experiments.results.report import accelerator, made_on
from experiments.shell.formats import Made


def overview(
    contents: Sequence[Measured],
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Headers and rows: of each method, time and operations on every model."""
    headers = ("time / SGD (operations / SGD)", *(short(c) for c in contents))
    found = [by_method(content) for content in contents]
    rows = [
        (_label(name, cases), *(_time_and_operations(case) for case in cases))
        for name in CONTENDERS
        for cases in [[cases.get(name) for cases in found]]
        if any(cases)
    ]
    return headers, rows


def details(content: Benchmark) -> str:
    """All tables of one model."""
    parts = [f"### {report.title(content)}"]
    for name, headers, rows in report.tables(content):
        if rows:
            one_line = [
                header.strip().replace("-\n", "").replace("\n", " ") for header in headers
            ]
            parts += [f"{name}:", table(one_line, rows)]
    return "\n\n".join(parts)


def how(content: Made) -> str:
    """The command, the machine, the versions."""
    return f"Command: `{content['command']}`; {made_on(content, accelerator(content))}."


def by_method(content: Measured) -> dict[str, Step]:
    """Each method's case, at its default share and with the default `keep`."""
    (group,) = report.groups(content, "methods")
    return {case["method"]: case for case in report.default_cases(group)}


def short(content: Measured) -> str:
    """The model's name without its sizes."""
    return re.split(r",| \d", content["workload"]["title"])[0]


def _label(name: str, cases: Sequence[Step | None]) -> str:
    case = next(case for case in cases if case)
    share = report.share_in_words(case)
    return f"{CONTENDERS[name].label}{', ' * bool(share)}{share}"


def _time_and_operations(case: Step | None) -> str:
    if case is None or case["time_vs_sgd"] is None:
        return "n/a"
    return f"{case['time_vs_sgd']['median']:.2f} ({case['operations_vs_sgd']:.2f})"
