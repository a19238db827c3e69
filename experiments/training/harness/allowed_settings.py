"""What an experiment's settings must be, whatever the data and the devices."""

import dataclasses

import numpy as np

from experiments.configs.experiment import Experiment
from experiments.data import catalogue, wordpiece
from experiments.data.augment import NOTHING
from experiments.data.named import Named
from experiments.methods import METHODS
from experiments.models import zoo
from experiments.shell.cli import UsageError, one_of
from experiments.training import optimizers

LARGEST = float(np.finfo(np.float32).max)


def check(experiment: Experiment) -> None:
    """Raises a UsageError if a setting can't be, or not together with another."""
    _names(experiment)
    for name in ("epochs", "batch_size"):
        _at_least(experiment, name, 1)
    for name in ("learning_rate", "weight_decay", "momentum", "seed"):
        _at_least(experiment, name, 0)
    for name in ("momentum", "warmup", "label_smoothing", "dropout"):
        _fraction(experiment, name)
    if experiment.seed >= 2**31:
        raise UsageError(f"--seed must be below {2**31}; got {experiment.seed}")
    if experiment.clip is not None and not 0 < experiment.clip <= LARGEST:
        raise UsageError(f"--clip must be positive and finite; got {experiment.clip:g}")
    _optimizer(experiment)
    zoo.title(experiment.model, experiment.norm)
    named = catalogue.named(experiment.dataset)
    if named.things == "texts":
        _of_texts(experiment, named)
    else:
        _of_images(experiment)


def _names(experiment: Experiment) -> None:
    one_of("method", experiment.method, METHODS)
    reads = catalogue.named(experiment.dataset).things
    one_of("model", experiment.model, zoo.MODELS)
    one_of("optimizer", experiment.optimizer, optimizers.OPTIMIZERS)
    one_of("schedule", experiment.schedule, optimizers.SCHEDULES)
    one_of("dtype", experiment.dtype, zoo.DTYPES)
    if zoo.MODELS[experiment.model].reads != reads:
        names = (name for name, model in zoo.MODELS.items() if model.reads == reads)
        raise UsageError(
            f"--dataset {experiment.dataset} has {reads}, which --model "
            f"{experiment.model} doesn't read; models that do: {', '.join(names)}"
        )


def _optimizer(experiment: Experiment) -> None:
    """A method without a climb has the optimizer's name, so that tables name it right."""
    needed = METHODS[experiment.method].optimizer
    if needed is not None and needed != experiment.optimizer:
        raise UsageError(
            f"--method {experiment.method} needs --optimizer {needed}; got "
            f"{experiment.optimizer}: give both, or --method {experiment.optimizer}"
        )


def _of_texts(experiment: Experiment, named: Named) -> None:
    if experiment.augmentation != NOTHING:
        raise UsageError(
            f"--augmentation is for images; --dataset {experiment.dataset} has texts"
        )
    if experiment.label_smoothing and named.predicts_numbers:
        raise UsageError(
            f"--label-smoothing must be 0 with --dataset {experiment.dataset}, whose "
            f"labels are numbers; got {experiment.label_smoothing:g}"
        )
    least = named.least_length
    if experiment.length < least:
        raise UsageError(f"--length must be at least {least}; got {experiment.length}")
    _pretrained(experiment)
    if experiment.pretrained is None:
        wordpiece.check_size(experiment.vocabulary)


def _pretrained(experiment: Experiment) -> None:
    if experiment.pretrained is not None:
        zoo.check_pretrained(experiment.model, experiment.pretrained)
    elif zoo.MODELS[experiment.model].bert:
        raise UsageError(
            f"--model {experiment.model} starts from a checkpoint: give --pretrained DIR, "
            f"a folder with config.json, model.safetensors and vocab.txt as Hugging Face "
            f"lays them out; --model transformer needs none"
        )


def _of_images(experiment: Experiment) -> None:
    defaults = {field.name: field.default for field in dataclasses.fields(Experiment)}
    for name in ("dropout", "pretrained", "length", "vocabulary"):
        value = getattr(experiment, name)
        if value != defaults[name]:
            raise UsageError(
                f"--{name} is for texts, and --dataset {experiment.dataset} has images; "
                f"got {value}"
            )


def _at_least(experiment: Experiment, name: str, least: float) -> None:
    value = getattr(experiment, name)
    # NaN is not at least anything; and what float32 can't hold is infinite on a device.
    if not (least <= value <= LARGEST):
        raise UsageError(
            f"{_option(name)} must be at least {least:g} and finite; got {value:g}"
        )


def _fraction(experiment: Experiment, name: str) -> None:
    value = getattr(experiment, name)
    if not 0 <= value < 1:
        raise UsageError(f"{_option(name)} must be from 0 to below 1; got {value:g}")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
