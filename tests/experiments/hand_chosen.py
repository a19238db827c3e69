"""Choices for the digits that needed no search."""

import json

from experiments.configs.compare import DIGITS
from experiments.methods import METHODS

VALUES = {
    "learning_rate": 0.1,
    "weight_decay": 5e-4,
    "rho": 0.1,
    "beta": 0.6,
    "sigma": 0.9,
    "decay": 0.8,
}


def values_of(method):
    return {name: VALUES[name] for name in METHODS[method].hyperparameters}


def write_choices(folder, splits=(0,), methods=tuple(METHODS), **settings):
    """A file of choices for the digits, as the search writes it."""
    entries = {
        name: {"hyperparameters": values_of(name), "validation_accuracy": 0.9}
        for name in methods
    }
    content = {
        "version": 1,
        "settings": {"how": "by hand", "protocol": DIGITS.summary(), **settings},
        "splits": {str(split): entries for split in splits},
    }
    folder.mkdir(exist_ok=True)
    path = folder / "digits.json"
    path.write_text(json.dumps(content))
    return path
