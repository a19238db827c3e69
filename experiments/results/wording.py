"""What is quoted of a comparison, in words: the metric, the examples, the baseline.

A file of results says so itself; where it doesn't, it is test accuracy against SGD.
"""

from experiments.judging.scores import SCORES
from experiments.methods import METHODS
from experiments.results.contents import Quoted


def metric(content: Quoted) -> str:
    """The name of the metric, as in keys: "accuracy"."""
    return content.get("metric", "accuracy")


def key(content: Quoted) -> str:
    """Of what is quoted, in a method's summary: "test_accuracy"."""
    return f"test_{metric(content)}"


def quoted(content: Quoted) -> str:
    """What is quoted: "test accuracy"."""
    return f"{judged_on(content)} {SCORES[metric(content)].title}"


def judged_on(content: Quoted) -> str:
    """What the examples are called that results are quoted on: "test"."""
    return content["dataset"].get("judged_on", "test")


def things(content: Quoted) -> str:
    """What the examples are: "images"."""
    return content["dataset"].get("things", "images")


def baseline(content: Quoted) -> str:
    """The method that costs are compared with, as in keys: "sgd"."""
    return content.get("baseline", "sgd")


def baseline_label(content: Quoted) -> str:
    """The same as tables have it: "SGD"."""
    return METHODS[baseline(content)].label


def first_upper(text: str) -> str:
    """At the beginning of a sentence; a name's other letters stay."""
    return text[:1].upper() + text[1:]
