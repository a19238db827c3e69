"""A part of MNIST: a thousand images for a small CNN, five thousand for a perceptron.

Both take minutes on a laptop's processor.
"""

from dataclasses import replace

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

BASE_5000 = replace(
    BASE, model="mlp", epochs=20, train_examples=5000, validation_examples=5000
)

OWN_IMAGES = (
    "Both are this row's own, drawn from MNIST's training set; its test images were never "
    "looked at."
)
MNIST = (
    *rows("mnist_1000", BASE, OWN_IMAGES),
    *rows("mnist_5000", BASE_5000, OWN_IMAGES, searched="mnist_5000"),
)
