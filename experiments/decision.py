"""One table to choose a method by: what each costs, and what it gave."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments import results
from experiments.benchmarking import page
from experiments.markdown import table
from experiments.report import made_on

Content = Mapping[str, Any]

# Name in the results -> what a user types, and the examples it uses.
METHODS = {
    "sam": ("`sam()`", "all", "all"),
    "asam": ("`asam()`", "all", "all"),
    "f_sam": ("`f_sam()`", "all", "all"),
    "random_sam": ("`random_sam(m=0.25)`", "a random quarter", "all"),
    "esam": ("`esam()`", "all", "the half whose loss rose most"),
    "momentum_sam": ("`momentum_sam()`", "none", "all"),
    "k_sam": ("`k_sam(k=0.25)`", "the hardest quarter", "the same"),
    "k_momentum_sam": ("`k_momentum_sam(k=0.25)`", "none", "the hardest quarter"),
    "k_sam_remembered": (
        "[remembered K-SAM](how-to/combine.md#the-cheapest-remembered-losses)",
        "the quarter that was hardest when last used",
        "the same",
    ),
    "k_momentum_remembered": (
        "[remembered K-Momentum-SAM](how-to/combine.md#the-cheapest-remembered-losses)",
        "none",
        "the quarter that was hardest when last used",
    ),
}


def choose(contents: Sequence[Content], folder: str) -> str:
    """Costs of two benchmarked models, and differences from SGD on two data sets.

    Args:
      contents: of two files of the benchmark, then of two comparisons.
      folder: of pictures, of which there are none.
    """
    del folder
    costs, gains = contents[:2], contents[2:]
    headers = (
        "method",
        "climbs on",
        "descends on",
        *(f"time / SGD: {page.short(content)}" for content in costs),
        *(f"points minus SGD: {content['dataset']['title']}" for content in gains),
    )
    rows = [
        (*words, *(_time(c, name) for c in costs), *(_gain(c, name) for c in gains))
        for name, words in METHODS.items()
    ]
    return f"{table(headers, rows, words=3)}\n\n{_note(costs, gains)}"


def _time(content: Content, name: str) -> str:
    return f"{page.by_method(content)[name]['time_vs_sgd']['median']:.2f}"


def _gain(content: Content, name: str) -> str:
    runs = {key: entry["runs"] for key, entry in content["methods"].items()}
    found = results.difference(runs[name], runs["sgd"])
    mean, low, high = (100 * found[part] for part in ("mean", "low", "high"))
    return f"{mean:+.2f} ({low:+.2f} to {high:+.2f})"


def _note(costs: Sequence[Content], gains: Sequence[Content]) -> str:
    data = "; ".join(
        f"{content['dataset']['title']}: {content['dataset']['train']:,} training images, "
        f"`{content['command']}`"
        for content in gains
    )
    return (
        f"Time: of a training step on two CPU cores, `{costs[0]['command']}`. Points of "
        f"test accuracy, with the 95% interval of the paired difference. {data}. Each "
        f"method with values of its own from the same search on validation data. "
        f"{made_on(costs[0])}."
    )
