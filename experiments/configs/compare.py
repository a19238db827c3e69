"""What the comparison trains on each dataset: sizes, model, epochs, pixel scaling.

Variants are made by `dataclasses.replace`; the command line's --epochs and --batch-size
do exactly that.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from experiments.configs.spaces import LEARNING_RATE, Interval
from experiments.models import CNN, MLP


@dataclass(frozen=True)
class Protocol:
    """How one dataset is split, scaled and trained on.

    Attributes:
      dataset: its name in `experiments.data.catalogue`.
      train: training examples of each split.
      validation: validation examples of each split. On digits, what is left of the
        dataset is the split's test set; elsewhere the official test set is.
      model: (image shape, classes, rngs=...) -> NNX model.
      model_name: the model in words, for reports.
      epochs: passes over the training examples.
      batch_size: examples per step; what is left of an epoch is dropped.
      shift: subtracted from the pixels; a constant, so nothing is learnt from test data.
      scale: what the pixels are divided by afterwards.
      side_by_side: whether to vmap the replicas and scan an epoch's steps. Best for
        dense layers. Not for convolutions on CPU: there XLA runs them on one core inside
        a loop, and vmap over the weights makes slow grouped convolutions of them.
      momentum: of SGD, which is every method's base optimizer.
      keep: see `ksam_jax.per_example`.
      learning_rate: the range that the search covers; see `configs.spaces`.
    """

    dataset: str
    train: int
    validation: int
    model: Callable[..., Any]
    model_name: str
    epochs: int
    batch_size: int = 128
    shift: float = 0.0
    scale: float = 1.0
    side_by_side: bool = True
    momentum: float = 0.9
    keep: str = "nothing"
    learning_rate: Interval = LEARNING_RATE

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the training examples."""
        return self.train // self.batch_size

    @property
    def steps(self) -> int:
        """Steps of a whole training."""
        return self.epochs * self.steps_per_epoch

    def build(self, image_shape: Sequence[int], classes: int) -> Callable[..., Any]:
        """Returns a function of the random streams that makes the model."""
        return lambda rngs: self.model(image_shape, classes, rngs=rngs)

    def summary(self) -> dict[str, Any]:
        """The settings that a result depends on, for JSON."""
        pixels = f"(pixel - {self.shift:g})" if self.shift else "pixel"
        return {
            "dataset": self.dataset,
            "train": self.train,
            "validation": self.validation,
            "model": self.model_name,
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "pixels": f"{pixels} / {self.scale:g}",
            "optimizer": f"SGD, momentum {self.momentum:g}, learning rate falling to 0 as "
            "a cosine, weight decay added to the gradient at the unperturbed weights",
        }


DIGITS = Protocol(
    dataset="digits",
    train=384,
    validation=516,
    model=partial(MLP, widths=(256, 256)),
    model_name="MLP 256-256",
    epochs=60,
    scale=16.0,
    keep="all",
)

MNIST = Protocol(
    dataset="mnist",
    train=1000,
    validation=1000,
    model=partial(CNN, channels=(16, 32), dense=128),
    model_name="CNN 16-32, GroupNorm, dense 128",
    epochs=40,
    batch_size=125,
    # Mean and standard deviation of its training pixels, as experiments.train finds them.
    shift=33.32,
    scale=78.57,
    side_by_side=False,
    # With the highest losses alone, steps that are fine for SGD fail from the start.
    learning_rate=Interval(0.002, 0.5),
)

CIFAR10 = Protocol(
    dataset="cifar10",
    train=4096,
    validation=2048,
    model=partial(CNN, channels=(16, 32, 64), dense=128),
    model_name="CNN 16-32-64, GroupNorm, dense 128",
    epochs=20,
    shift=127.5,
    scale=64.0,
    side_by_side=False,
    learning_rate=Interval(0.002, 0.5),
)

# For wrong labels: with fewer examples a network can't tell a wrong one from a hard one.
DIGITS_900 = replace(DIGITS, train=900)

# By the name that options, results and choices call it.
PROTOCOLS = {p.dataset: p for p in (DIGITS, MNIST, CIFAR10)} | {"digits_900": DIGITS_900}
