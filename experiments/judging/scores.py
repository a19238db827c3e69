"""What predictions are judged by: accuracy, F1, and correlations.

Where a correlation is undefined, as that of constant predictions is, it is 0, as it would
be on average for guesses.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from experiments.shell.cli import one_of

Classes = Int[np.ndarray, " n"]
Numbers = Float[np.ndarray, " n"]


@dataclass(frozen=True)
class Score:
    """One way to judge predictions.

    Attributes:
      title: as written in tables.
      axis: as written along an axis.
      function: (predictions, labels) -> what they score, at most 1, and 1 if all is
        right. A class of -1 stands for no prediction, and is wrong whatever the label.
    """

    title: str
    axis: str
    function: Callable[[np.ndarray, np.ndarray], float]


def accuracy(predictions: Classes, labels: Classes) -> float:
    """The fraction of predictions that are right."""
    return float(np.mean(predictions == labels))


def f1(predictions: Classes, labels: Classes) -> float:
    """F1 of class 1 against class 0; 0 if class 1 is never predicted rightly."""
    # Imported where it is needed: it takes a second.
    from sklearn.metrics import f1_score

    score: Any = f1_score  # its annotations forget that zero_division may be a number
    return float(score(labels, _filled(predictions, labels), zero_division=0))


def matthews(predictions: Classes, labels: Classes) -> float:
    """Matthews's correlation; 0 if predictions or labels are all the same, or none is."""
    from sklearn.metrics import matthews_corrcoef

    filled = _filled(predictions, labels)
    is_silent = (predictions < 0).all()
    if is_silent or _constant(filled) or _constant(labels):
        return 0.0
    return float(matthews_corrcoef(labels, filled))


def _filled(predictions: Classes, labels: Classes) -> Classes:
    """Predictions of two classes, with the wrong one where there is none."""
    return np.where(predictions < 0, 1 - labels, predictions)


def pearson(predictions: Numbers, labels: Numbers) -> float:
    """Pearson's correlation.

    It is 0 if predictions or labels are all the same, or a prediction isn't finite.
    """
    if not np.isfinite(predictions).all() or _constant(predictions) or _constant(labels):
        return 0.0
    from scipy import stats

    a, b = np.asarray(predictions, np.float64), np.asarray(labels, np.float64)
    found: Any = stats.pearsonr(a, b)
    return float(found.statistic)


def spearman(predictions: Numbers, labels: Numbers) -> float:
    """Spearman's correlation, that of ranks; equal numbers share their mean rank.

    It is 0 where Pearson's is.
    """
    if not np.isfinite(predictions).all():
        return 0.0
    from scipy import stats

    return pearson(stats.rankdata(predictions), stats.rankdata(labels))


def _constant(values: np.ndarray) -> bool:
    return bool((values == values[0]).all())


SCORES = {
    "accuracy": Score("accuracy", "accuracy", accuracy),
    "f1": Score("F1", "F1 score", f1),
    "matthews": Score("Matthews", "Matthews correlation", matthews),
    "pearson": Score("Pearson", "Pearson correlation", pearson),
    "spearman": Score("Spearman", "Spearman correlation", spearman),
}


def compute(
    names: Sequence[str], predictions: np.ndarray, labels: np.ndarray
) -> dict[str, float]:
    """Scores, each from -1 to 1.

    Args:
      names: of `SCORES`.
      predictions: (N,) classes, -1 where the model gave no finite logits; or numbers.
      labels: (N,) of the same kind.

    Raises:
      ValueError: if there is nothing to judge, or not one prediction for each label.
    """
    if predictions.shape != labels.shape or not labels.size:
        raise ValueError(
            f"predictions and labels must be (N,) with N at least 1; got "
            f"{predictions.shape} and {labels.shape}"
        )
    return {
        name: SCORES[one_of("metric", name, SCORES)].function(predictions, labels)
        for name in names
    }
