"""Training many replicas of one method side by side.

A replica is a seed and hyperparameters. The seed decides the initial weights and the
order of the batches, for every method the same, so that results with one seed are pairs.
Each method is compiled once, whatever the number of replicas' hyperparameters or splits.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from experiments import methods
from experiments.configs.compare import Protocol
from experiments.data.examples import Batch, Examples
from experiments.methods import Hyperparameters, Method
from experiments.models import PureModel
from experiments.models.pure import Variables
from experiments.training import optimizers, step
from experiments.training.step import Optimizer, TrainState


class Run(NamedTuple):
    """What tells one replica from another: scalars, or arrays (replicas,)."""

    seed: Array
    hyperparameters: Hyperparameters


def one_run(seed: int, hyperparameters: Hyperparameters) -> Run:
    """A run of Python numbers as arrays, so that other numbers need no compilation."""
    values = {name: jnp.float32(value) for name, value in hyperparameters.items()}
    return Run(jnp.int32(seed), values)


def same_but_seeds(seeds: Sequence[int], hyperparameters: Hyperparameters) -> Run:
    """Runs that differ in their seed only."""
    alone = [one_run(seed, hyperparameters) for seed in seeds]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone)


class Trainer(NamedTuple):
    """A method's compiled training, for replicas along the leading axis.

    Attributes:
      init: runs -> replicas.
      advance: (replicas, runs, rows, training examples) -> replicas; the rows
        (replicas, steps, batch size) say which examples each step's batch has.
    """

    init: Callable[[Run], TrainState]
    advance: Callable[
        [TrainState, Run, Int[Array, "replicas steps batch"], Examples], TrainState
    ]


def train_step(
    method: Method,
    model: PureModel,
    protocol: Protocol,
    replica: TrainState,
    run: Run,
    batch: Batch,
) -> TrainState:
    """One whole step of one replica: gradient, optimizer, new weights."""
    # What the step says of itself isn't used, so XLA doesn't compute it.
    replica, _ = step.train_step(_optimizer(method, protocol, run), model, replica, batch)
    return replica


def _optimizer(method: Method, protocol: Protocol, run: Run) -> Optimizer:
    seed, given = run
    steps, common = protocol.steps, (given["learning_rate"], given["weight_decay"])
    return Optimizer(
        methods.gradient(method, given, seed, num_examples=protocol.train, num_steps=steps),
        optimizers.of(protocol.experiment, steps, *common),
    )


def trainer(method: Method, model: PureModel, protocol: Protocol) -> Trainer:
    """Makes the method's training, to be compiled at its first use."""

    def start(params: PyTree, run: Run) -> TrainState:
        return step.start(
            _optimizer(method, protocol, run), Variables(params, model.nothing)
        )

    compiled_start = jax.jit(jax.vmap(start))
    one_step = partial(train_step, method, model, protocol)

    def init(runs: Run) -> TrainState:
        return compiled_start(model.stacked(_keys(runs.seed, "weights")), runs)

    def advance(
        replica: TrainState, run: Run, rows: Int[Array, "steps batch"], examples: Examples
    ) -> TrainState:
        def body(replica: TrainState, row: Int[Array, " batch"]) -> tuple[TrainState, None]:
            batch = Batch(examples.inputs[row], examples.labels[row], row)
            return one_step(replica, run, batch), None

        if rows.shape[0] == 1:
            return body(replica, rows[0])[0]
        return jax.lax.scan(body, replica, rows)[0]

    group = over_group(advance, protocol, in_axes=(0, 0, 0, None))
    return Trainer(init, jax.jit(group, donate_argnums=0))


def over_group(
    function: Callable[..., PyTree], protocol: Protocol, in_axes: Sequence[int | None]
) -> Callable[..., PyTree]:
    """The function over the replicas of a group: vmap, unless a group is one replica.

    vmap over an axis of length one would still turn convolutions into grouped ones.
    """
    if protocol.side_by_side:
        return jax.vmap(function, in_axes=tuple(in_axes))

    def alone(*args: PyTree) -> PyTree:
        first = [
            arg if axis is None else jax.tree.map(lambda leaf: leaf[0], arg)
            for arg, axis in zip(args, in_axes, strict=True)
        ]
        return jax.tree.map(lambda leaf: leaf[None], function(*first))

    return alone


def train(
    trainer: Trainer,
    protocol: Protocol,
    examples: Examples,
    runs: Run,
    on_epoch: Callable[[int, PyTree], None] = lambda replicas, params: None,
) -> PyTree:
    """Trains replicas and returns their parameters, stacked.

    Args:
      trainer: of the method.
      protocol: sizes, epochs, and whether replicas run side by side or in turn.
      examples: the training examples, the same for all replicas.
      runs: the replicas, arrays (replicas,).
      on_epoch: called whenever some replicas have done an epoch, with their number and
        parameters.
    """
    groups = [
        _train_group(trainer, protocol, examples, group, on_epoch)
        for group in grouped(runs, protocol)
    ]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *groups)


def grouped(replicas: PyTree, protocol: Protocol) -> list[PyTree]:
    """Cuts a leading axis of replicas into those that run side by side: all, or one."""
    count = jax.tree.leaves(replicas)[0].shape[0]
    size = count if protocol.side_by_side else 1
    return [
        jax.tree.map(lambda leaf, i=i: leaf[i : i + size], replicas)
        for i in range(0, count, size)
    ]


def _train_group(
    trainer: Trainer,
    protocol: Protocol,
    examples: Examples,
    runs: Run,
    on_epoch: Callable[[int, PyTree], None],
) -> PyTree:
    replicas = trainer.init(runs)
    at_once = protocol.steps_per_epoch if protocol.side_by_side else 1
    what = protocol.experiment
    for epoch in range(what.epochs):
        rows = batch_rows(runs.seed, epoch, examples.number, what.batch_size)
        for i in range(0, rows.shape[1], at_once):
            replicas = trainer.advance(replicas, runs, rows[:, i : i + at_once], examples)
        # Dispatch runs ahead of the work; progress should show what is done.
        jax.block_until_ready(replicas.params)
        on_epoch(len(runs.seed), replicas.params)
    return replicas.params


@partial(jax.jit, static_argnums=(2, 3))
def batch_rows(
    seeds: Int[Array, " replicas"], epoch: int, examples: int, batch_size: int
) -> Int[Array, "replicas steps batch"]:
    """Each seed's batches of an epoch: a shuffle, without what is left over."""
    steps = examples // batch_size

    def rows(key: Array) -> Array:
        order = jax.random.permutation(jax.random.fold_in(key, epoch), examples)
        return order[: steps * batch_size].reshape(steps, batch_size)

    return jax.vmap(rows)(_keys(seeds, "batches"))


def _keys(seeds: Int[Array, " replicas"], purpose: str) -> Array:
    """A random key for each seed, another one for each purpose."""
    stream = ("weights", "batches").index(purpose)
    return jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), stream))(seeds)
