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

from experiments.configs.experiment import Experiment
from experiments.data import catalogue
from experiments.data.examples import Kind
from experiments.data.preparation import Preparation
from experiments.data.rows import Rows
from experiments.judging import objectives
from experiments.judging.rise import uphill
from experiments.methods import Method
from experiments.models.pure import PureModel, Variables, pure
from experiments.processes.sharded import DATA, abstract
from experiments.training import step
from experiments.training.harness import updates
from experiments.training.look import look
from experiments.training.step import Note, TrainState

# Of the run's seed; augmentation has another number (`experiments.data.augment`).
WEIGHTS = 0


class Judged(NamedTuple):
    """What a model says of a batch, without augmentation.

    Attributes:
      predictions: of each example, those that fill up the batch included: (n,).
      labels: likewise.
      loss: sum over those that don't.
    """

    predictions: Array
    labels: Array
    loss: Float[Array, ""]


class Programs(NamedTuple):
    """What a run calls; all are compiled at their first use.

    Attributes:
      init: seed -> random weights, and BatchNorm's statistics if there are any.
      start: (weights and statistics, seed) -> the state before the first step, a copy on
        every device.
      step: (state, rows, seed) -> (state, what the step says); takes the state's memory.
      judge: (state, rows) -> what is to be said of a batch in use.
      gradient: (state, rows) -> of the sum of the losses, likewise.
      uphill: (state, gradient) -> the state a fixed distance along the gradient.
      losses: (weights and statistics, rows) -> the loss of each example, likewise: (n,);
        not compiled, for programs that differentiate it.
      parameters: how many numbers are trained.
    """

    init: Callable[[Any], Variables]
    start: Callable[[Variables, Any], TrainState]
    step: Callable[[TrainState, Rows, Any], tuple[TrainState, Note]]
    judge: Callable[[TrainState, Rows], Judged]
    gradient: Callable[[TrainState, Rows], PyTree]
    uphill: Callable[[TrainState, PyTree], TrainState]
    losses: Callable[[Variables, Rows], Float[Array, " n"]]
    parameters: int

    def abstract_state(self, mesh: Mesh) -> TrainState:
        """Shapes, types and places of the state, without making one."""
        seed = jax.ShapeDtypeStruct((), jnp.int32)
        state = jax.eval_shape(self.start, jax.eval_shape(self.init, seed), seed)
        return abstract(state, mesh, P())


def programs(
    experiment: Experiment, mesh: Mesh, kind: Kind, method: Method | None = None
) -> Programs:
    """Makes them; experiments that differ in their seed only share them.

    Args:
      experiment: what to train.
      mesh: of one axis, the examples of a batch.
      kind: of the examples.
      method: in the place of the experiment's.

    Raises:
      UsageError: if the model, the method or one of its arguments doesn't exist.
    """
    return _programs(dataclasses.replace(experiment, seed=0), mesh, kind, method)


@functools.lru_cache(maxsize=8)
def _programs(
    experiment: Experiment, mesh: Mesh, kind: Kind, method: Method | None
) -> Programs:
    objective = objectives.objective(kind.classes, experiment.label_smoothing)
    build = experiment.build(kind.shape, kind.classes, kind.vocabulary)
    model = pure(build, "auto", objective)
    prepared = catalogue.named(experiment.dataset).preparation(
        kind.normalization, experiment.augmentation, experiment.dropout
    )
    make = functools.partial(updates.optimizer, experiment, kind.examples, method=method)

    def init(seed: Int[Array, ""]) -> Variables:
        return model.init(jax.random.fold_in(jax.random.key(seed), WEIGHTS))

    def start(variables: Variables, seed: Int[Array, ""]) -> TrainState:
        return step.start(make(seed), variables)

    def one_step(state: TrainState, rows: Rows, seed: Any) -> tuple[TrainState, Note]:
        return step.train_step(make(seed), model, state, prepared.batch(rows, seed))

    # Each device selects, normalizes and climbs with its own examples.
    spread = jax.shard_map(
        one_step, mesh=mesh, in_specs=(P(), P(DATA), P()), out_specs=(P(), P())
    )
    judge = _judge(model, prepared, kind)
    everywhere = functools.partial(jax.jit, out_shardings=NamedSharding(mesh, P()))
    return Programs(
        everywhere(init),
        everywhere(start),
        jax.jit(spread, donate_argnums=0),
        everywhere(judge),
        everywhere(_gradient(judge)),
        everywhere(_uphill),
        _losses(model, prepared, kind),
        _size(jax.eval_shape(init, jnp.int32(0)).params),
    )


def _losses(
    model: PureModel, prepared: Preparation, kind: Kind
) -> Callable[[Variables, Rows], Array]:
    objective = objectives.objective(kind.classes)

    def losses(variables: Variables, rows: Rows) -> Array:
        inputs = prepared.inputs(rows)
        return look(model, objective, variables, inputs, rows.labels).losses

    return losses


def _judge(
    model: PureModel, prepared: Preparation, kind: Kind
) -> Callable[[TrainState, Rows], Judged]:
    objective = objectives.objective(kind.classes)

    def judge(state: TrainState, rows: Rows) -> Judged:
        variables = Variables(state.params, state.rest)
        found = look(model, objective, variables, prepared.inputs(rows), rows.labels)
        real = jnp.where(rows.index >= 0, found.losses, 0)
        return Judged(found.predictions, rows.labels, jnp.sum(real))

    return judge


def _gradient(
    judge: Callable[[TrainState, Rows], Judged],
) -> Callable[[TrainState, Rows], PyTree]:
    def total_loss(params: PyTree, state: TrainState, rows: Rows) -> Array:
        return judge(state._replace(params=params), rows).loss

    def gradient(state: TrainState, rows: Rows) -> PyTree:
        return jax.grad(total_loss)(state.params, state, rows)

    return gradient


def _uphill(state: TrainState, gradient: PyTree) -> TrainState:
    return state._replace(params=uphill(state.params, gradient))


def _size(params: PyTree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))
