"""A thousand images of MNIST and a small CNN: minutes on a laptop's processor."""

from experiments.configs.experiment import Experiment
from experiments.configs.searched import rows

BASE = Experiment(
    dataset="mnist",
    model="cnn",
    method="sgd",
    epochs=40,
    # Overwritten by what the search chose, as is the weight decay.
    learning_rate=0.1,
    weight_decay=0.0,
    # Eight whole batches, so that every image is seen in every epoch.
    batch_size=125,
    train_examples=1000,
    validation_examples=1000,
)

MNIST = tuple(
    rows(
        "mnist_1000",
        BASE,
        "Both are this row's own, drawn from MNIST's training set; its test images were "
        "never looked at.",
    )
)
