"""The content of results.json: raw outcomes in, summaries and differences out.

Everything printed, plotted or copied into the README is read from this content, so the
figures can't disagree.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from experiments.costs.cost import Cost
from experiments.methods import METHODS
from experiments.results.contents import Bounds, Difference, Run, of_seeds
from experiments.results.intervals import estimate, paired, spread_over_seeds

# Against nothing, its more expensive parent, and its examples without its climb (which
# there are at k = 1/4 only); what a cheaper climb or no look at the losses gives up.
DIFFERENCES = (
    ("k_sam", "sgd"),
    ("k_sam", "sam"),
    ("k_sam", "highest_loss"),
    ("k_sam_half", "sgd"),
    ("k_sam_half", "sam"),
    ("k_momentum_sam", "sgd"),
    ("k_momentum_sam", "sam"),
    ("k_momentum_sam", "highest_loss"),
    ("k_momentum_sam", "k_sam"),
    ("k_sam_remembered", "sgd"),
    ("k_momentum_remembered", "sgd"),
    ("k_sam_following", "sgd"),
    ("k_sam_following", "sam"),
    ("k_sam_following", "coverage_without_climb"),
    ("k_momentum_following", "sgd"),
    ("k_momentum_following", "coverage_without_climb"),
    ("random_k_sam", "sgd"),
)


# What a `Run` is made of, with arrays; see `experiments.training.study`.
Raw = Mapping[str, Any]
# Of each method, one per finished split.
Runs = Mapping[str, Sequence[Raw]]


def summarised(
    runs: Runs, metric: str = "accuracy", baseline: str = "sgd"
) -> dict[str, Any]:
    """What the runs so far amount to: each method's summary, and the differences.

    Args:
      runs: of each method, one entry per finished split, with one value per seed under
        "test_accuracy", "validation_accuracy", "train_loss" and "sharpness"; None is a
        value that isn't known. "seeds" names the seeds, unless they are 0, 1 and so on.
      metric: what is quoted, instead of the accuracy.
      baseline: the method of the same optimizer without a climb.
    """
    return {
        "methods": {
            name: {
                "label": METHODS[name].label,
                "summary": _summary(entries, metric),
                "runs": entries,
            }
            for name, entries in runs.items()
            if entries
        },
        "differences": list(_differences(runs, f"test_{metric}", baseline)),
    }


def _summary(entries: Sequence[Raw], metric: str) -> dict[str, Any]:
    quoted = _table(entries, f"test_{metric}")
    over_splits = estimate([_mean(row) for row in quoted])
    return {
        f"test_{metric}": {
            "mean": over_splits.mean,
            "std_over_seeds": spread_over_seeds(quoted),
            "low": over_splits.low,
            "high": over_splits.high,
        },
        f"validation_{metric}": _mean(_table(entries, f"validation_{metric}")),
        "train_loss": _mean(_table(entries, "train_loss")),
        "sharpness": _mean(_table(entries, "sharpness")),
        "splits": quoted.shape[0],
        "seeds": quoted.shape[1],
    }


def _table(entries: Sequence[Raw], key: str) -> Float[np.ndarray, "splits seeds"]:
    return np.array([of_seeds(entry, key) for entry in entries], np.float64)


def _mean(values: Float[np.ndarray, "..."]) -> float:
    """NaN where there is none: all runs of a method may have failed."""
    return float(values.mean()) if values.size else math.nan


def _differences(runs: Runs, key: str, baseline: str) -> Iterable[Difference]:
    for method, other in DIFFERENCES:
        other = baseline if other == "sgd" else other
        # A run that was stopped may have one more split for one of the two.
        both = min(len(runs.get(method, [])), len(runs.get(other, [])))
        found = difference(runs.get(method, [])[:both], runs.get(other, [])[:both], key)
        if found:
            yield {"method": method, "minus": other, **found}


def difference(
    mine: Sequence[Raw | Run], others: Sequence[Raw | Run], key: str = "test_accuracy"
) -> Bounds | None:
    """Mean difference in what is quoted and its interval, paired by split or by seed.

    Seeds that one of the two doesn't have are left out; None if no pair is left.
    """
    pairs = np.array(
        [_pairs(a, b, key) for a, b in zip(mine, others, strict=True)], dtype=np.float64
    )
    if not pairs.size:
        return None
    (mean, low, high, n), over = paired(pairs[..., 0], pairs[..., 1])
    return {"mean": mean, "low": low, "high": high, "n": n, "over": over}


def _pairs(mine: Raw, other: Raw, key: str) -> list[tuple[Any, Any]]:
    """What both have with each seed that both have."""
    its = _by_seed(other, key)
    return [
        (value, its[seed]) for seed, value in _by_seed(mine, key).items() if seed in its
    ]


def _by_seed(entry: Raw, key: str) -> dict[int, Any]:
    values = of_seeds(entry, key)
    return dict(zip(entry.get("seeds", range(len(values))), values, strict=True))


def with_costs(content: dict[str, Any], costs: Mapping[str, Cost]) -> dict[str, Any]:
    """Adds to each method what its step costs."""
    methods = {
        name: entry | {"cost": _cost(costs[name], content.get("baseline", "sgd"))}
        for name, entry in content["methods"].items()
    }
    return content | {"methods": methods}


def _cost(cost: Cost, baseline: str) -> dict[str, Any]:
    median, low, high = cost.time_ratio
    return {
        "operations": cost.operations,
        f"operations_vs_{baseline}": cost.operations_ratio,
        "milliseconds": 1000 * cost.seconds,
        f"time_vs_{baseline}": {
            "median": median,
            "lower_quartile": low,
            "upper_quartile": high,
        },
    }
