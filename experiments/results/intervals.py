"""Means, spreads, and intervals of paired differences."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.stats import t as student

CONFIDENCE = 0.95


class Estimate(NamedTuple):
    """A mean with its 95% interval from Student's t; NaN bounds if n is 1."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def margin(self) -> float:
        """Half the interval's width."""
        return self.high - self.mean


def estimate(values: Sequence[float] | Float[np.ndarray, " n"]) -> Estimate:
    """The mean of independent values and its interval."""
    sample = np.asarray(values, np.float64)
    n, mean = len(sample), float(np.mean(sample))
    if n < 2:
        return Estimate(mean, math.nan, math.nan, n)
    quantile = float(student.ppf((1 + CONFIDENCE) / 2, n - 1))
    margin = quantile * float(np.std(sample, ddof=1)) / math.sqrt(n)
    return Estimate(mean, mean - margin, mean + margin, n)


class Comparison(NamedTuple):
    """A paired difference, and what its pairs are: "splits" or "seeds"."""

    estimate: Estimate
    over: str


def paired(
    a: Float[np.ndarray, "splits seeds"], b: Float[np.ndarray, "splits seeds"]
) -> Comparison:
    """The mean of a minus b.

    With several splits, each split's mean over seeds is one value: seeds on the same
    split share its examples and aren't independent. With one split the values are the
    seeds, and the interval says nothing about other splits.
    """
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    if len(difference) > 1:
        return Comparison(estimate(difference.mean(axis=1)), "splits")
    return Comparison(estimate(difference[0]), "seeds")


def spread_over_seeds(values: Float[np.ndarray, "splits seeds"]) -> float:
    """Standard deviation over seeds within a split, pooled; NaN with one seed."""
    if values.shape[1] < 2:
        return math.nan
    return math.sqrt(float(np.mean(np.var(values, axis=1, ddof=1))))
