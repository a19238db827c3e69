"""The compiled functions of an experiment, spread over the devices of a mesh."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, PyTree

from experiments import augment, evaluation, step
from experiments.augment import Normalization
from experiments.cli import UsageError
from experiments.configs.experiment import OWN, Experiment
from experiments.data import Batch
from experiments.methods import COMMON, METHODS, optimizer
from experiments.models import zoo
from experiments.models.pure import PureModel, cross_entropy, pure
from experiments.pipeline import Rows
from experiments.sharded import DATA
from experiments.step import Note, Optimizer, TrainState

# Of the run's seed; augmentation has another number (`experiments.augment`).
WEIGHTS = 0


class Totals(NamedTuple):
    """Sums over the examples of a batch that aren't there to fill it up."""

    hits: Float[Array, ""]
    loss: Float[Array, ""]


class Programs(NamedTuple):
    """What a run calls; all are compiled at their first use.

    Attributes:
      init: seed -> the state before the first step, a copy on every device.
      step: (state, rows, seed) -> (state, what the step says); takes the state's memory.
      totals: (state, rows) -> sums over a batch in use, without augmentation.
      gradient: (state, rows) -> of the sum of the losses, likewise.
      uphill: (state, gradient) -> the state a fixed distance along the gradient.
      parameters: how many numbers are trained.
    """

    init: Callable[[Any], TrainState]
    step: Callable[[TrainState, Rows, Any], tuple[TrainState, Note]]
    totals: Callable[[TrainState, Rows], Totals]
    gradient: Callable[[TrainState, Rows], PyTree]
    uphill: Callable[[TrainState, PyTree], TrainState]
    parameters: int


def programs(
    experiment: Experiment,
    mesh: Mesh,
    normalization: Normalization,
    *,
    image_shape: tuple[int, int, int],
    classes: int,
    examples: int,
) -> Programs:
    """Makes them; experiments that differ in their seed only share them.

    Args:
      experiment: what to train.
      mesh: of one axis, the examples of a batch.
      normalization: of the training images.
      image_shape: (height, width, depth).
      classes: how many.
      examples: how many to train on.

    Raises:
      UsageError: if the model, the method or one of its arguments doesn't exist.
    """
    seedless = dataclasses.replace(experiment, seed=0)
    return _programs(seedless, mesh, normalization, image_shape, classes, examples)


@functools.lru_cache(maxsize=8)
def _programs(
    experiment: Experiment,
    mesh: Mesh,
    normalization: Normalization,
    image_shape: tuple[int, int, int],
    classes: int,
    examples: int,
) -> Programs:
    build = zoo.build(
        experiment.model, image_shape, classes, norm=experiment.norm, dtype=experiment.dtype
    )
    model = pure(build, keep="auto")
    make = functools.partial(_optimizer, experiment, examples)

    def init(seed: Int[Array, ""]) -> TrainState:
        key = jax.random.fold_in(jax.random.key(seed), WEIGHTS)
        return step.start(make(seed), model.init(key))

    # Each device selects, normalizes and climbs with its own examples.
    spread = jax.shard_map(
        _one_step(experiment, model, make, normalization),
        mesh=mesh,
        in_specs=(P(), P(DATA), P()),
        out_specs=(P(), P()),
    )
    judge = _judge(model, normalization)
    everywhere = functools.partial(jax.jit, out_shardings=NamedSharding(mesh, P()))
    shapes = jax.eval_shape(init, jnp.int32(0))
    return Programs(
        everywhere(init),
        jax.jit(spread, donate_argnums=0),
        everywhere(judge),
        everywhere(_gradient(judge)),
        everywhere(_uphill),
        sum(leaf.size for leaf in jax.tree.leaves(shapes.params)),
    )


def _one_step(
    experiment: Experiment,
    model: PureModel,
    make: Callable[[Any], Optimizer],
    normalization: Normalization,
) -> Callable[[TrainState, Rows, Any], tuple[TrainState, Note]]:
    def one_step(
        state: TrainState, rows: Rows, seed: Int[Array, ""]
    ) -> tuple[TrainState, Note]:
        keys = augment.example_keys(seed, rows.epoch, rows.index)
        images = augment.augmented(
            experiment.augmentation, normalization, keys, rows.images
        )
        batch = Batch(images, rows.labels, rows.index)
        return step.train_step(make(seed), model, state, batch)

    return one_step


def _gradient(
    judge: Callable[[TrainState, Rows], Totals],
) -> Callable[[TrainState, Rows], PyTree]:
    def total_loss(params: PyTree, state: TrainState, rows: Rows) -> Array:
        return judge(state._replace(params=params), rows).loss

    def gradient(state: TrainState, rows: Rows) -> PyTree:
        return jax.grad(total_loss)(state.params, state, rows)

    return gradient


def _uphill(state: TrainState, gradient: PyTree) -> TrainState:
    return state._replace(params=evaluation.uphill(state.params, gradient))


def _judge(
    model: PureModel, normalization: Normalization
) -> Callable[[TrainState, Rows], Totals]:
    def totals(state: TrainState, rows: Rows) -> Totals:
        images = augment.normalized(normalization, rows.images)
        logits = model.logits(state.params, images, state.rest)
        real = rows.index >= 0
        losses = jnp.where(real, cross_entropy(logits, rows.labels), 0)
        right = evaluation.hits(logits, rows.labels) & real
        return Totals(jnp.sum(right), jnp.sum(losses))

    return totals


def _optimizer(experiment: Experiment, examples: int, seed: Any) -> Optimizer:
    values = _own(experiment) | {name: getattr(experiment, name) for name in COMMON}
    return optimizer(
        METHODS[experiment.method],
        values,
        seed,
        steps=experiment.epochs * (examples // experiment.batch_size),
        momentum=experiment.momentum,
        num_examples=examples,
        **_devices(experiment),
    )


def check(experiment: Experiment) -> None:
    """Raises what is wrong with the method's arguments, before anything is loaded.

    Raises:
      UsageError: if the method doesn't take one of them, or needs another.
      ValueError, TypeError: what the method itself says of their values.
    """
    _optimizer(experiment, 2 * experiment.batch_size, 0)


def _own(experiment: Experiment) -> dict[str, float]:
    """The method's own arguments that the experiment sets."""
    given = {name: getattr(experiment, name) for name in OWN}
    takes = METHODS[experiment.method].takes
    for name, value in given.items():
        if value is not None and name not in takes:
            valid = ", ".join(f"--{other}" for other in OWN if other in takes)
            raise UsageError(
                f"--{name} is not for --method {experiment.method}, which takes "
                f"{valid or 'nothing of its own'}; got {value}"
            )
        if value is None and name in takes and takes[name].default is takes[name].empty:
            raise UsageError(
                f"--method {experiment.method} needs --{name.replace('_', '-')}"
            )
    if "sync_ascent" not in takes and not experiment.sync_ascent:
        raise UsageError(
            f"--no-sync-ascent is not for --method {experiment.method}, which doesn't climb"
        )
    return {name: value for name, value in given.items() if value is not None}


def _devices(experiment: Experiment) -> dict[str, Any]:
    takes = METHODS[experiment.method].takes
    known: dict[str, Any] = {"axis_name": DATA, "sync_ascent": experiment.sync_ascent}
    return {name: value for name, value in known.items() if name in takes}
