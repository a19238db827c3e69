"""Three gradients behind BatchNorm as a table, for docs/performance.md."""

from collections.abc import Mapping
from typing import Any, TypedDict, cast

from experiments.pages.benchmarks import how
from experiments.results.markdown import table
from experiments.shell.formats import Format, Made


class Mean(TypedDict):
    """Over seeds."""

    mean: float
    std: float


class Row(TypedDict):
    """Behind so many steps; the figures are beside it, see `figures`."""

    steps: int


class BatchNorm(Made):
    """What results.json of `experiments.batchnorm` has."""

    dataset: str
    model: str
    optimizer: str
    seeds: int
    images: int
    batch: int
    chosen: int
    rows: list[Row]


BATCHNORM = Format(
    "results of experiments.batchnorm", BatchNorm, version=1, remedy="run it again"
)

# Columns of the table: name in the results -> header, format.
COLUMNS = {
    "cosine_through": ("cosine: published, differentiated through", ".2f"),
    "cosine_constants": ("cosine: published, constants", ".2f"),
    "norm_ratio_constants": ("norm: constants / published", ".2f"),
    "kernel_cosine_published": ("kernel and gradient: published", ".0e"),
    "kernel_cosine_constants": ("kernel and gradient: constants", ".2f"),
}


def figures(row: Row) -> Mapping[str, Mean]:
    """By name."""
    return cast(Mapping[str, Any], row)


def block(content: BatchNorm, folder: str) -> str:
    """How far three gradients of the highest losses are apart behind BatchNorm."""
    del folder
    rows = [
        (
            str(row["steps"]),
            *(_spread(figures(row)[name], form) for name, (_, form) in COLUMNS.items()),
        )
        for row in content["rows"]
    ]
    headers = ("steps of SGD", *(header for header, _ in COLUMNS.values()))
    return "\n\n".join((table(headers, rows), _note(content), how(content)))


def _spread(value: Mean, form: str) -> str:
    return f"{value['mean']:{form}} ± {value['std']:{form}}"


def _note(content: BatchNorm) -> str:
    return (
        f"{content['model']}, in float32, on the first {content['images']:,} training "
        f"images of {content['dataset']}; {content['optimizer']}; of a batch of "
        f"{content['batch']} the {content['chosen']} highest losses. Mean ± standard "
        f"deviation over {content['seeds']} seeds of initial weights and order of batches."
    )
