"""An NNX model as pure functions of its parameters."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import optax
from flax import nnx
from jaxtyping import Array, Float, Key, PyTree

import ksam_jax


@dataclass(frozen=True)
class PureModel:
    """What training asks of a model.

    Attributes:
      init: random keys -> parameters of one replica each, stacked.
      logits: (parameters, images) -> logits of shape (N, classes).
      losses: (parameters, batch) -> cross-entropy of each example, shape (N,).
    """

    init: Callable[[Key[Array, " replicas"]], PyTree]
    logits: Callable[[PyTree, Float[Array, "n ..."]], Float[Array, "n classes"]]
    losses: Callable[[PyTree, Any], Float[Array, " n"]]


def pure(build: Callable[[nnx.Rngs], Any], keep: str = "nothing") -> PureModel:
    """Splits a model into functions over its parameters.

    Args:
      build: makes the model from its random streams.
      keep: what K-SAM and ESAM keep of the forward pass that selects; see
        `ksam_jax.per_example`.

    Raises:
      ValueError: if the model has state besides parameters (BatchNorm, dropout keys).
    """
    shapes = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
    graphdef, _, rest = nnx.split(shapes, nnx.Param, ...)
    if jax.tree.leaves(rest):
        raise ValueError(f"the model has state besides its parameters: {rest}")

    def init(key: Key[Array, ""]) -> PyTree:
        return nnx.state(build(nnx.Rngs(key)), nnx.Param)

    def logits(params: PyTree, images: Float[Array, "n ..."]) -> Array:
        # Without the copy NNX would share Variables between traces, and refuses.
        return nnx.merge(graphdef, params, rest, copy=True)(images)

    def example_loss(params: PyTree, example: Any) -> Float[Array, ""]:
        predicted = logits(params, example.images[None])[0]
        return optax.softmax_cross_entropy_with_integer_labels(predicted, example.labels)

    # Compiled here, once for all methods: random weights take long to compile.
    stacked = jax.jit(jax.vmap(init))
    return PureModel(stacked, logits, ksam_jax.per_example(example_loss, keep=keep))
