"""What is quoted of a comparison, in words: the metric, the examples, the baseline.

A file of results says so itself; where it doesn't, it is test accuracy against SGD.
"""

from collections.abc import Mapping
from typing import Any

from experiments.judging.scores import SCORES
from experiments.methods import METHODS

Content = Mapping[str, Any]


def metric(content: Content) -> str:
    """The name of the metric, as in keys: "accuracy"."""
    return content.get("metric", "accuracy")


def key(content: Content) -> str:
    """Of what is quoted, in a method's summary: "test_accuracy"."""
    return f"test_{metric(content)}"


def quoted(content: Content) -> str:
    """What is quoted: "test accuracy"."""
    return f"{judged_on(content)} {SCORES[metric(content)].title}"


def judged_on(content: Content) -> str:
    """What the examples are called that results are quoted on: "test"."""
    return content.get("dataset", {}).get("judged_on", "test")


def things(content: Content) -> str:
    """What the examples are: "images"."""
    return content.get("dataset", {}).get("things", "images")


def baseline(content: Content) -> str:
    """The method that costs are compared with, as in keys: "sgd"."""
    return content.get("baseline", "sgd")


def baseline_label(content: Content) -> str:
    """The same as tables have it: "SGD"."""
    return METHODS[baseline(content)].label


def first_upper(text: str) -> str:
    """At the beginning of a sentence; a name's other letters stay."""
    return text[:1].upper() + text[1:]
