"""Tables of comparisons: what a cell says of steps that differ."""

from pathlib import Path
from typing import Any

from experiments.methods import METHODS
from experiments.results import report
from experiments.results.contents import COMPARISON

RESULTS = Path(__file__).parents[3] / "results" / "reference"


def column(content: Any, name: str) -> str:
    return dict(zip(content["methods"], report.rows(content), strict=True))[name][3]


def test_operations_of_steps_that_differ_are_an_upper_bound():
    content: Any = COMPARISON.read(RESULTS / "sgd" / "digits" / "results.json")
    for name, entry in content["methods"].items():
        counted = f"{entry['cost']['operations_vs_sgd']:.2f}"
        assert column(content, name) == ("≤ " * (METHODS[name].at is not None) + counted)
    assert column(content, "k_sam_following").startswith("≤ ")
    assert not column(content, "sam").startswith("≤")
    assert "; ≤: of the dearest step, where a method's differ." in " ".join(
        report.notes(content)
    )


def test_where_all_steps_are_alike_no_bound_is_explained():
    content: Any = COMPARISON.read(RESULTS / "digits" / "results.json")
    alike = {k: v for k, v in content["methods"].items() if METHODS[k].at is None}
    content = content | {"methods": alike}
    assert "≤" not in " ".join([*report.notes(content), *map(str, report.rows(content))])
