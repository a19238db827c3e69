"""The comparison's training: every method on every split with every seed."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, PyTree
from rich.console import Console

from experiments.configs.choices import Choices
from experiments.configs.compare import Protocol
from experiments.data.examples import Dataset, Examples
from experiments.methods import METHODS, Hyperparameters
from experiments.models import PureModel, pure
from experiments.results.records import Runs
from experiments.shell.progress import Display
from experiments.training.evaluation import Evaluator, evaluator
from experiments.training.replicas import (
    Trainer,
    same_but_seeds,
    train,
    trainer,
)
from experiments.training.splits import TrainingSplit, draw_test, training_split

LOOKS = 8


class Trained(NamedTuple):
    """A method's replicas at the end of their training.

    Attributes:
      params: of all replicas, stacked.
      split: the number of the split.
      train: the examples that they were trained on.
    """

    params: PyTree
    split: int
    train: Examples

    @property
    def replicas(self) -> int:
        """How many there are."""
        return jax.tree.leaves(self.params)[0].shape[0]


class Extra(NamedTuple):
    """What is measured of trained replicas besides the measures of `Evaluator`.

    Attributes:
      measure: (trained replicas, what to call with the steps that are done) -> entries for
        the results.
      steps: of each replica, as many training steps as that is worth on a progress bar.
    """

    measure: Callable[[Trained, Callable[[int], None]], dict[str, Any]]
    steps: int = 0


NOTHING = Extra(lambda trained, advance: {})


class Study(NamedTuple):
    """Everything that stays the same from method to method and split to split.

    Attributes:
      dataset: where examples come from.
      protocol: how they are trained on.
      choices: hyperparameters of each method and split.
      seeds: how many.
      label_noise: fraction of the training labels to replace.
      model: what is trained.
      evaluator: what it is judged by.
    """

    dataset: Dataset
    protocol: Protocol
    choices: Choices
    seeds: int
    label_noise: float
    model: PureModel
    evaluator: Evaluator


def prepare(
    dataset: Dataset,
    protocol: Protocol,
    choices: Choices,
    seeds: int,
    label_noise: float = 0.0,
) -> Study:
    """Builds the model and its measures."""
    build = protocol.experiment.build(dataset.shape, dataset.classes)
    model = pure(build, protocol.keep)
    measures = evaluator(model, protocol)
    return Study(dataset, protocol, choices, seeds, label_noise, model, measures)


def train_all(
    study: Study,
    methods: Sequence[str],
    splits: int,
    console: Console,
    on_result: Callable[[Runs], None],
    extra: Extra = NOTHING,
) -> Runs:
    """Trains the methods on splits 0, 1, ... and returns each one's results.

    All methods finish a split before the next begins, so that what a stopped run leaves
    behind can be compared. `on_result` sees the results after each method, `extra` the
    trained replicas before.
    """
    trainers = {
        name: trainer(METHODS[name], study.model, study.protocol) for name in methods
    }
    runs: Runs = {name: [] for name in methods}
    with Display(console, splits * len(methods)) as display:
        for split in range(splits):
            examples, test = _examples(study, split)
            for name in methods:
                where = f"split {split}, " if splits > 1 else ""
                steps = (study.protocol.steps + extra.steps) * study.seeds
                display.begin(where + METHODS[name].label, steps)
                result = _one_method(
                    study, trainers[name], name, split, examples, test, extra, display
                )
                runs[name].append(result)
                on_result(runs)
    return runs


def _examples(study: Study, split: int) -> tuple[TrainingSplit, Examples]:
    examples = training_split(study.dataset, study.protocol, split, study.label_noise)
    test = draw_test(study.dataset, study.protocol, split)
    return jax.device_put(examples), jax.device_put(test)


def _one_method(
    study: Study,
    trainer: Trainer,
    name: str,
    split: int,
    examples: TrainingSplit,
    test: Examples,
    extra: Extra,
    display: Display,
) -> dict[str, Any]:
    start = time.monotonic()
    choice = study.choices.choice(name, split)
    params = _trained(study, trainer, choice.values, examples, display)
    found = _judged(study, params, examples, test)
    more = extra.measure(Trained(params, split, examples.train), display.advance)
    display.end(
        f"validation {found['validation_accuracy'].mean():.1%}, "
        f"test {found['test_accuracy'].mean():.1%}"
    )
    return {
        "split": split,
        "hyperparameters": choice.values,
        "chosen_on_split": choice.split,
        **found,
        **more,
        "seconds": round(time.monotonic() - start, 2),
    }


def _trained(
    study: Study,
    trainer: Trainer,
    values: Hyperparameters,
    examples: TrainingSplit,
    display: Display,
) -> PyTree:
    """The parameters of all seeds, stacked."""
    return train(
        trainer,
        study.protocol,
        examples.train,
        same_but_seeds(range(study.seeds), values),
        _show_progress(study, examples.validation, display),
    )


def _judged(
    study: Study, params: PyTree, examples: TrainingSplit, test: Examples
) -> dict[str, Float[np.ndarray, " replicas"]]:
    measures = study.evaluator
    return {
        "test_accuracy": measures.accuracy(params, test),
        "validation_accuracy": measures.accuracy(params, examples.validation),
        "train_loss": measures.loss(params, examples.train),
        "sharpness": measures.sharpness(params, examples.train),
    }


def _show_progress(
    study: Study, validation: Examples, display: Display
) -> Callable[[int, PyTree], None]:
    """Moves the display on after every epoch, and looks at the accuracy now and then."""
    every = max(1, study.protocol.experiment.epochs // LOOKS)
    epochs = 0

    def on_epoch(replicas: int, params: PyTree) -> None:
        nonlocal epochs
        epochs += 1
        look = display.live and epochs % every == 0
        seen = study.evaluator.accuracy(params, validation).mean() if look else None
        display.advance(replicas * study.protocol.steps_per_epoch, seen)

    return on_epoch
