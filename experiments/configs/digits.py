"""Scikit-learn's digits and a perceptron: seconds, and no files to prepare."""

from experiments.configs.experiment import Experiment
from experiments.configs.searched import rows

BASE = Experiment(
    dataset="digits",
    model="mlp",
    method="sgd",
    epochs=60,
    # Overwritten by what the search chose, as is the weight decay.
    learning_rate=0.1,
    weight_decay=0.0,
    batch_size=128,
    train_examples=384,
    validation_examples=516,
)

DIGITS = tuple(
    rows(
        "digits",
        BASE,
        "That was split 0, on which this row is trained too; its test images were never "
        "looked at.",
    )
)
