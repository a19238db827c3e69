"""What one training is made of: everything that its result depends on, but the machine.

Variants are made by `dataclasses.replace`; `python -m experiments.train` takes every field
as an option.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

from flax import nnx
from tyro.conf import arg

from experiments.data.augment import NOTHING, Augmentation
from experiments.models import zoo


@dataclass(frozen=True)
class Experiment:
    """One training run. The base optimizer stands behind the method: the ascent sees
    neither the weight decay nor the clipping."""

    dataset: Annotated[str, arg(help="By its TFDS name; or digits, which needs no files.")]
    model: Annotated[str, arg(help="By its name in experiments/models/zoo.py.")]
    method: Annotated[str, arg(help="By its name in experiments/methods.")]
    epochs: Annotated[int, arg(help="Passes over the training examples.")]
    learning_rate: Annotated[float, arg(help="The highest one; it falls to 0.")]
    weight_decay: Annotated[
        float,
        arg(
            help="Times the weights: of SGD, added to the gradient; of AdamW, to its step."
        ),
    ]
    batch_size: Annotated[int, arg(help="Examples per step, all devices together.")] = 128
    optimizer: Annotated[str, arg(help="sgd, with momentum, or adamw.")] = "sgd"
    momentum: Annotated[
        float, arg(help="Of SGD; of AdamW, the decay of its gradients' mean.")
    ] = 0.9
    schedule: Annotated[
        str, arg(help="How the learning rate falls, step by step: cosine or linear.")
    ] = "cosine"
    warmup: Annotated[
        float, arg(help="Share of all steps in which the learning rate rises from 0.")
    ] = 0.0
    clip: Annotated[
        float | None, arg(help="Longest gradient that the optimizer sees; None: any.")
    ] = None
    decay_all: Annotated[
        bool, arg(help="Whether weight decay is for biases and scales of norms, too.")
    ] = True
    rho: Annotated[float | None, arg(help="Radius of the perturbation.")] = None
    k: Annotated[
        float | None, arg(help="Fraction of the batch with the highest losses.")
    ] = None
    beta: Annotated[float | None, arg(help="ESAM: share of the weights perturbed.")] = None
    gamma: Annotated[float | None, arg(help="ESAM: share of the examples kept.")] = None
    sigma: Annotated[float | None, arg(help="F-SAM: share of the average removed.")] = None
    decay: Annotated[float | None, arg(help="Of F-SAM's or Momentum-SAM's average.")] = None
    eta: Annotated[float | None, arg(help="ASAM: added to the weights' sizes.")] = None
    norm: Annotated[str, arg(help="batch or group; small models have no choice.")] = "batch"
    augmentation: Augmentation = NOTHING
    label_smoothing: Annotated[
        float, arg(help="Share of a label that is spread over all classes.")
    ] = 0.0
    dropout: Annotated[float, arg(help="Share of activations dropped, of texts.")] = 0.0
    length: Annotated[int, arg(help="Tokens of a text; longer ones are cut.")] = 128
    vocabulary: Annotated[
        int, arg(help="Tokens to learn from the training texts, without --pretrained.")
    ] = 8192
    pretrained: Annotated[
        str | None,
        arg(metavar="DIR", help="Folder of a BERT checkpoint as Hugging Face lays it out."),
    ] = None
    train_examples: Annotated[
        int | None,
        arg(help="How many to train on, drawn once for all seeds; None: all."),
    ] = None
    validation_examples: Annotated[
        int, arg(help="How many to hold out of the training examples, to look at.")
    ] = 0
    dtype: Annotated[
        str,
        arg(help="Of the computation: float32, bfloat16 or float16. Weights are float32."),
    ] = "float32"
    sync_ascent: Annotated[
        bool, arg(help="Whether all devices climb together, or each on its own examples.")
    ] = True
    seed: Annotated[int, arg(help="Of weights, batches, augmentation and method.")] = 0

    def steps_per_epoch(self, examples: int) -> int:
        """Whole batches in so many training examples; what is left over is dropped."""
        return examples // self.batch_size

    def steps(self, examples: int) -> int:
        """Of the whole training."""
        return self.epochs * self.steps_per_epoch(examples)

    def build(
        self, shape: Sequence[int], classes: int, vocabulary: int | None = None
    ) -> Callable[[nnx.Rngs], nnx.Module]:
        """What makes the model from its random streams; see `experiments.models.zoo`.

        Raises:
          UsageError: if there is no such model, or it doesn't take one of the settings.
        """
        return zoo.build(
            self.model,
            shape,
            classes,
            norm=self.norm,
            dtype=self.dtype,
            vocabulary=vocabulary,
            dropout=self.dropout,
            pretrained=self.pretrained,
        )


# How the learning rate falls, in words.
FALLS = {"cosine": "as a cosine", "linear": "linearly"}

# What a method may be given besides the common settings.
OWN = ("rho", "k", "beta", "gamma", "sigma", "decay", "eta")


@dataclass(frozen=True)
class Published:
    """A result that somebody has published for a row.

    Attributes:
      accuracy: test accuracy, percent.
      spread: what is printed behind it, or None.
      seeds: how many runs it is the mean of; None if that isn't known.
      source: where it is printed.
    """

    accuracy: float
    spread: float | None
    seeds: int | None
    source: str


@dataclass(frozen=True)
class Row:
    """A named experiment.

    Attributes:
      name: what the command line calls it.
      experiment: what it runs.
      published: what somebody got with these settings; None if nothing is known.
      origin: where the hyperparameters come from, and how those were chosen that no paper
        gives. A sentence.
    """

    name: str
    experiment: Experiment
    published: Published | None
    origin: str

    @property
    def family(self) -> str:
        """What the names of all rows begin with that differ in the method only."""
        return self.name.removesuffix(f"_{self.experiment.method}")
