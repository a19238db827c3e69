"""A model with its losses and a batch of random examples, for any state it may have."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, PyTree

import ksam_jax
from experiments.configs.benchmark import Workload
from experiments.data.tokens import Tokens
from experiments.judging.objectives import cross_entropy
from experiments.models import MLP

LossFn = Callable[[PyTree, Any], Any]


class Batch(NamedTuple):
    """Examples of a step; `index` is each one's number in the training set."""

    inputs: Any
    labels: Any
    index: Any


class Task(NamedTuple):
    """What a training step asks of a model.

    Attributes:
      init: random key -> (parameters, the rest of the model's state).
      losses: rest of the state -> loss over a batch, as users write it: losses (N,), or
        (losses, new statistics) if `has_aux`.
      example_losses: keep -> the same of one example at a time; see
        `ksam_jax.per_example`. None if the model couples the examples of a batch.
      is_mlp: whether it is `experiments.models.MLP`, whose gradient can be had by hand.
    """

    init: Callable[[Array], tuple[PyTree, PyTree]]
    losses: Callable[[PyTree], LossFn]
    example_losses: Callable[[str], LossFn] | None
    is_mlp: bool = False

    @property
    def has_aux(self) -> bool:
        """Whether the loss returns statistics that the next step starts from."""
        return self.example_losses is None

    def loss_fn(self, rest: PyTree, keep: str) -> LossFn:
        """The loss for `ksam_jax`: of one example at a time, if that is possible."""
        if self.example_losses is None:
            return self.losses(rest)
        return self.example_losses(keep)


def make_task(build: Callable[[nnx.Rngs], Any]) -> Task:
    """Splits a model into functions over its parameters and statistics."""
    shapes = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
    graphdef, _, no_rest = nnx.split(shapes, nnx.Param, ...)
    has_statistics = bool(jax.tree.leaves(no_rest))

    def init(key: Array) -> tuple[PyTree, PyTree]:
        _, params, rest = nnx.split(build(nnx.Rngs(key)), nnx.Param, ...)
        return params, rest

    def losses(rest: PyTree) -> LossFn:
        def loss_fn(params: PyTree, batch: Batch) -> Any:
            model = nnx.merge(graphdef, params, rest, copy=True)
            found = cross_entropy(model(batch.inputs), batch.labels)
            return (found, nnx.state(model, nnx.BatchStat)) if has_statistics else found

        return loss_fn

    def example_loss(params: PyTree, example: Batch) -> Float[Array, ""]:
        model = nnx.merge(graphdef, params, no_rest, copy=True)
        one = jax.tree.map(lambda x: x[None], example.inputs)
        return cross_entropy(model(one)[0], example.labels)

    def example_losses(keep: str) -> LossFn:
        what = int(keep) if keep.isdecimal() else keep
        return ksam_jax.per_example(example_loss, keep=what)

    by_example = None if has_statistics else example_losses
    return Task(init, losses, by_example, isinstance(shapes, MLP))


def random_batch(workload: Workload, size: int) -> Batch:
    """Examples that depend on nothing but the workload and the size."""
    rng = np.random.default_rng(0)
    if workload.vocabulary:
        inputs = rng.integers(workload.vocabulary, size=(size, *workload.shape))
        inputs = inputs.astype(np.int32)
        if workload.segments:
            inputs = Tokens(inputs, np.zeros_like(inputs))
    else:
        inputs = rng.standard_normal((size, *workload.shape), np.float32)
    labels = rng.integers(workload.classes, size=size).astype(np.int32)
    return Batch(inputs, labels, np.arange(size, dtype=np.int32))
