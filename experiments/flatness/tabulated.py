"""The content of the results: summaries of measured replicas, and rank correlations."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Float

from experiments.flatness.measures import LOSS, MEASURES
from experiments.judging.scores import spearman
from experiments.results import records
from experiments.results.intervals import spread_over_seeds
from experiments.results.records import Raw


def content(runs: records.Runs) -> dict[str, Any]:
    """Each method's summary and runs, and the correlations over all replicas.

    Args:
      runs: of each method a list of one entry, as `experiments.training.study` makes it,
        with the values of each measure under "measures".
    """
    methods = records.summarised(runs)["methods"]
    return {
        "methods": {
            name: entry | {"summary": entry["summary"] | _summary(entry["runs"][0])}
            for name, entry in methods.items()
        },
        "correlations": {
            name: correlation(methods.values(), name) for name in (LOSS, *MEASURES)
        },
    }


def _summary(run: Raw) -> dict[str, Any]:
    """Mean, standard deviation and number of seeds; the mean error of a single value."""
    return {
        "measures": {
            name: _spread(values_of(run, name)) | {"error": _error(run, name)}
            for name in (LOSS, *MEASURES)
        }
    }


def values_of(run: Raw, name: str) -> Float[np.ndarray, " seeds"]:
    """The values of a measure, or of what else is known; NaN of diverged replicas."""
    found = run["measures"][name]["values"] if name in MEASURES else run[name]
    return np.array(found, np.float64)


def _error(run: Raw, name: str) -> float:
    errors = run["measures"][name]["errors"] if name in MEASURES else []
    return _spread(np.array(errors, np.float64))["mean"]


def _spread(values: Float[np.ndarray, " seeds"]) -> dict[str, Any]:
    """Of those that are known."""
    known = values[np.isfinite(values)]
    mean = float(known.mean()) if known.size else math.nan
    return {"mean": mean, "std": spread_over_seeds(known[None]), "n": known.size}


def correlation(methods: Iterable[Raw], name: str) -> dict[str, Any]:
    """Spearman's, between a measure and the test accuracy, and the training loss.

    With the accuracy over all replicas, and over the means of the methods: replicas of a
    method are alike, so they are less evidence than their number says. With the loss over
    all replicas: a measure that goes along with it says little of its own.

    Args:
      methods: entries of the results.
      name: of the measure.
    """
    runs = [entry["runs"][0] for entry in methods]
    pairs = [_pairs(run, name, "test_accuracy") for run in runs]
    losses = [_pairs(run, name, LOSS) for run in runs]
    over = {
        "replicas": np.concatenate(pairs, axis=1),
        "methods": np.array([found.mean(axis=1) for found in pairs if found.size]).T,
        "loss": np.concatenate(losses, axis=1),
    }
    return {key: _ranked(found) for key, found in over.items()}


def _pairs(run: Raw, *names: str) -> Float[np.ndarray, "2 seeds"]:
    """Two values of each replica where both are known."""
    found = np.stack([values_of(run, name) for name in names])
    return found[:, np.isfinite(found).all(axis=0)]


def _ranked(pairs: Float[np.ndarray, "2 n"]) -> dict[str, Any]:
    """NaN where there are no ranks to compare."""
    n = pairs.shape[-1] if pairs.size else 0
    return {"spearman": spearman(*pairs) if n > 1 else math.nan, "n": n}
