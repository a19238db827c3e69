"""Trials of a search: which values they take, and which of them was best."""

import zlib
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from experiments.configs.choices import Entry
from experiments.configs.compare import Protocol
from experiments.configs.spaces import Interval
from experiments.training.evaluation import Evaluator
from experiments.training.replicas import Run, Trainer, train
from experiments.training.splits import TrainingSplit

# Other seeds than those whose results are reported.
FIRST_SEED = 1000


def trials(
    ranges: Mapping[str, Interval], split: int, count: int
) -> dict[str, Float[np.ndarray, " count"]]:
    """The values that the trials take: one array for each hyperparameter."""

    def column(name: str, interval: Interval) -> np.ndarray:
        # By the hyperparameter's name: methods that share it share its positions.
        rng = np.random.default_rng([split, zlib.crc32(name.encode())])
        positions = (rng.permutation(count) + rng.uniform(size=count)) / count
        return np.array([interval.at(p) for p in positions])

    return {name: column(name, interval) for name, interval in ranges.items()}


def best(
    trainer: Trainer,
    evaluator: Evaluator,
    protocol: Protocol,
    split: TrainingSplit,
    values: dict[str, Float[np.ndarray, " trials"]],
    seeds: int,
    on_epoch: Callable[[int, PyTree], None] = lambda replicas, params: None,
) -> Entry:
    """Trains all trials and returns the entry of the best.

    Args:
      trainer: of the method.
      evaluator: of the model.
      protocol: sizes and epochs.
      split: training and validation examples.
      values: hyperparameters of the trials.
      seeds: how many seeds each trial is trained with.
      on_epoch: see `experiments.training.replicas.train`.
    """
    count = len(next(iter(values.values())))
    runs = Run(
        jnp.tile(jnp.arange(FIRST_SEED, FIRST_SEED + seeds), count),
        {name: jnp.asarray(np.repeat(v, seeds), jnp.float32) for name, v in values.items()},
    )
    params = train(trainer, protocol, jax.device_put(split.train), runs, on_epoch)
    validation = jax.device_put(split.validation)
    accuracy = evaluator.accuracy(params, validation).reshape(count, seeds).mean(1)
    loss = evaluator.loss(params, validation).reshape(count, seeds).mean(1)
    # Rounded, so that equal numbers of hits are ties. NaN sorts last, as it should.
    winner = int(np.lexsort((loss, -accuracy.round(9)))[0])
    return {
        "hyperparameters": {name: float(v[winner]) for name, v in values.items()},
        "validation_accuracy": round(float(accuracy[winner]), 6),
        "validation_loss": round(float(loss[winner]), 6),
        "trial": winner,
    }
