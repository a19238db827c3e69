"""What the comparison trains on each data set: an experiment's settings, side by side.

Variants are made by `Protocol.changed`; the command line's --epochs and --batch-size do
exactly that.
"""

from dataclasses import dataclass, replace
from typing import Any

from experiments.configs import digits, mnist
from experiments.configs.experiment import FALLS, Experiment
from experiments.configs.spaces import LEARNING_RATE, Interval
from experiments.data import catalogue
from experiments.models import zoo


@dataclass(frozen=True)
class Protocol:
    """How replicas of one experiment are trained, whatever their method and seed.

    Attributes:
      experiment: all but the method and what is chosen for it, as `experiments.train`
        has it. With a number of training examples; on digits, what is left of the data
        set is a split's test set, elsewhere the official test set is.
      side_by_side: whether to vmap the replicas and scan an epoch's steps. Best for
        dense layers. Not for convolutions on CPU: there XLA runs them on one core inside
        a loop, and vmap over the weights makes slow grouped convolutions of them.
      keep: see `ksam_jax.per_example`.
      learning_rate: the range that the search covers; see `configs.spaces`.
    """

    experiment: Experiment
    side_by_side: bool = True
    keep: str = "nothing"
    learning_rate: Interval = LEARNING_RATE

    @property
    def train(self) -> int:
        """Training examples of each split."""
        count = self.experiment.train_examples
        if count is None:
            raise ValueError("train_examples must be a number, of which splits are drawn")
        return count

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the training examples."""
        return self.experiment.steps_per_epoch(self.train)

    @property
    def steps(self) -> int:
        """Steps of a whole training."""
        return self.experiment.steps(self.train)

    def changed(self, **settings: Any) -> "Protocol":
        """The same with other settings of its experiment."""
        return replace(self, experiment=replace(self.experiment, **settings))

    def summary(self) -> dict[str, Any]:
        """The settings that a result depends on, for JSON."""
        what = self.experiment
        pixels = catalogue.named(what.dataset).pixels
        return {
            "dataset": what.dataset,
            "train": self.train,
            "validation": what.validation_examples,
            "model": zoo.MODELS[what.model].layers,
            "epochs": what.epochs,
            "batch_size": what.batch_size,
            "pixels": pixels or "as the training images' means and deviations say",
            "optimizer": f"SGD, momentum {what.momentum:g}, learning rate falling to 0 "
            f"{FALLS[what.schedule]}, weight decay added to the gradient at the "
            "unperturbed weights",
        }


# Method, learning rate and weight decay are each replica's own.
DIGITS = Protocol(digits.BASE, keep="all")

# With the highest losses alone, steps that are fine for SGD fail from the start.
OF_IMAGES = Interval(0.002, 0.5)
MNIST = Protocol(mnist.BASE, side_by_side=False, learning_rate=OF_IMAGES)
# Dense layers, side by side as the digits' are.
MNIST_5000 = Protocol(mnist.BASE_5000, keep="all")

CIFAR10 = Protocol(
    Experiment(
        dataset="cifar10",
        model="cnn_wide",
        method="sgd",
        epochs=20,
        learning_rate=0.1,
        weight_decay=0.0,
        train_examples=4096,
        validation_examples=2048,
    ),
    side_by_side=False,
    learning_rate=OF_IMAGES,
)

# For wrong labels: with fewer examples a network can't tell a wrong one from a hard one.
DIGITS_900 = DIGITS.changed(train_examples=900)

# By the name that options, results and choices call it.
PROTOCOLS = {p.experiment.dataset: p for p in (DIGITS, MNIST, CIFAR10)} | {
    "digits_900": DIGITS_900,
    "mnist_5000": MNIST_5000,
}
