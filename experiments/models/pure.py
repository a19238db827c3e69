"""An NNX model as pure functions of its parameters."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
from flax import nnx
from jaxtyping import Array, Float, Key, PyTree

import ksam_jax
from experiments.judging.objectives import CLASSES, Objective


class Variables(NamedTuple):
    """All that a model knows: what is trained, and BatchNorm's statistics if it has any."""

    params: PyTree
    rest: PyTree


@dataclass(frozen=True)
class PureModel:
    """What training and judging ask of a model.

    Attributes:
      init: random key -> variables.
      stacked: random keys -> parameters of one replica each, stacked; compiled.
      logits: (parameters, inputs, rest) -> outputs (N, classes), as in use: BatchNorm takes
        its running statistics, and leaves them as they are; nothing is dropped.
      loss_fn: rest -> the loss that a method's `update` takes, a function of (parameters,
        batch): that of each example, (N,); if `has_aux`, with the statistics that the
        batch has moved.
      has_aux: whether there are statistics, so that examples of a batch depend on another.
      nothing: the rest of a model without statistics, and their shapes if it has any.
    """

    init: Callable[[Key[Array, ""]], Variables]
    stacked: Callable[[Key[Array, " replicas"]], PyTree]
    logits: Callable[[PyTree, Any, PyTree], Float[Array, "n classes"]]
    loss_fn: Callable[[PyTree], Callable[[PyTree, Any], Any]]
    has_aux: bool
    nothing: PyTree

    def losses(self, params: PyTree, batch: Any) -> Float[Array, " n"]:
        """The loss of each example, of a model without statistics."""
        return self.loss_fn(self.nothing)(params, batch)


def pure(
    build: Callable[[nnx.Rngs], Any],
    keep: Any = "nothing",
    objective: Objective = CLASSES,
) -> PureModel:
    """Splits a model into functions over its parameters.

    The model is called with the inputs, and in training with the example's key, too, where
    the batch has keys.

    Args:
      build: makes the model from its random streams.
      keep: what methods that select keep of the forward pass that does; see
        `ksam_jax.per_example`. Without meaning for a model with statistics, since its loss
        is of a whole batch.
      objective: what its outputs are for.

    Raises:
      ValueError: if the model has state besides parameters and statistics.
    """
    split = _split(build)
    has_aux = bool(jax.tree.leaves(split.statistics))

    def init(key: Key[Array, ""]) -> Variables:
        model = build(nnx.Rngs(key))
        return Variables(nnx.state(model, nnx.Param), nnx.state(model, nnx.BatchStat))

    def logits(params: PyTree, inputs: Any, rest: PyTree) -> Array:
        model = split.merged(params, rest)
        model.eval()
        return model(inputs)

    example_losses = ksam_jax.per_example(_example_loss(split, objective), keep=keep)
    return PureModel(
        init,
        # Compiled here, once for all methods: random weights take long to compile.
        jax.jit(jax.vmap(lambda key: init(key).params)),
        logits,
        _batch_loss(split, objective) if has_aux else lambda rest: example_losses,
        has_aux,
        split.statistics,
    )


class _Split(NamedTuple):
    """A model without its numbers, and the shapes of its statistics."""

    graphdef: Any
    statistics: PyTree

    def merged(self, params: PyTree, rest: PyTree) -> Any:
        # Without the copy NNX would share Variables between traces, and refuses.
        return nnx.merge(self.graphdef, params, rest, copy=True)


def _split(build: Callable[[nnx.Rngs], Any]) -> _Split:
    shapes = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
    graphdef, _, statistics, others = nnx.split(shapes, nnx.Param, nnx.BatchStat, ...)
    if jax.tree.leaves(others):
        raise ValueError(
            f"the model has state besides its parameters and statistics: {others}"
        )
    return _Split(graphdef, statistics)


def _batch_loss(split: _Split, objective: Objective) -> Callable[[PyTree], Any]:
    # Traced once for all passes of a step: NNX takes time that grows with the square of
    # what is traced to write statistics, minutes for three passes of PyramidNet-110.
    @jax.jit
    def batch_losses(
        params: PyTree, rest: PyTree, inputs: Any, labels: Array
    ) -> tuple[Array, PyTree]:
        model = split.merged(params, rest)
        losses = objective.losses(model(inputs), labels)
        return losses, nnx.state(model, nnx.BatchStat)

    def batch_loss(rest: PyTree) -> Callable[[PyTree, Any], Any]:
        return lambda params, batch: batch_losses(params, rest, batch.inputs, batch.labels)

    return batch_loss


def _example_loss(split: _Split, objective: Objective) -> Callable[[PyTree, Any], Any]:
    def example_loss(params: PyTree, example: Any) -> Float[Array, ""]:
        inputs = jax.tree.map(lambda leaf: leaf[None], example.inputs)
        # A batch of another kind, without keys, may be given as well.
        key = getattr(example, "key", None)
        keys = () if key is None else (key,)
        outputs = split.merged(params, split.statistics)(inputs, *keys)[0]
        return objective.losses(outputs, example.labels)

    return example_loss
