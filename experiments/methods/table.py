"""All methods by name, in the order in which tables have them."""

import re

from experiments.methods import explained, rows, variants
from experiments.methods.method import Method

METHODS = {method.name: method for method in (*rows.ROWS, *variants.ROWS)}

# What is compared and searched for unless methods are named.
DEFAULT = tuple(name for name, method in METHODS.items() if method.by_default)

# Where costs are listed these come first, from what everybody knows to what is ours.
KNOWN = ("sgd", "sam", "asam", "f_sam", "random_sam", "esam", "momentum_sam")


def from_known_to_ours() -> dict[str, Method]:
    """All methods by name, in the order in which tables of costs have them."""
    return {name: METHODS[name] for name in KNOWN} | METHODS


def label(name: str, k: float | None = None) -> str:
    """What tables call a method, with another k than its own if there is one."""
    return METHODS[name].label if k is None else f"{without_share(name)}, k = {k:g}"


def without_share(name: str) -> str:
    """What tables call a method that has several shares."""
    return re.sub(r", k = [^,]+", "", METHODS[name].label)


def explanations(names: list[str]) -> list[str]:
    """What is said below a table of these methods; what new rows say comes last."""
    said = dict.fromkeys(text for name in names for text in METHODS[name].explained)
    return [text for text in dict.fromkeys((*explained.ORDER, *said)) if text in said]
