"""Three gradients of the highest losses of a model with BatchNorm."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, PyTree

from experiments.data.examples import Examples

# Name of a definition -> its loss of the chosen examples, and the gradient of that.
Found = dict[str, tuple[Array, PyTree]]


class Losses(NamedTuple):
    """A model with BatchNorm as functions of its parameters.

    Attributes:
      init: random key -> parameters.
      own: (parameters, batch) -> losses (N,) and the batch's statistics, which they use.
      given: (parameters, statistics, batch) -> losses (N,) with those statistics.
    """

    init: Callable[[Array], PyTree]
    own: Callable[[PyTree, Examples], tuple[Float[Array, " n"], PyTree]]
    given: Callable[[PyTree, PyTree, Examples], Float[Array, " n"]]


def losses(build: Callable[..., Any]) -> Losses:
    """Splits a model into functions of its parameters and of BatchNorm's statistics.

    Args:
      build: (rngs=...) -> NNX model whose only other state is those statistics.
    """
    normalizing, evaluating, shapes = _modes(build)
    unused = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    def own(params: PyTree, batch: Examples) -> tuple[Array, PyTree]:
        merged = nnx.merge(normalizing, params, unused, copy=True)
        return _cross_entropy(merged, batch), nnx.state(merged, nnx.BatchStat)

    def given(params: PyTree, statistics: PyTree, batch: Examples) -> Array:
        merged = nnx.merge(evaluating, params, statistics, copy=True)
        return _cross_entropy(merged, batch)

    return Losses(lambda key: nnx.state(build(rngs=nnx.Rngs(key)), nnx.Param), own, given)


def _modes(build: Callable[..., Any]) -> tuple[Any, Any, PyTree]:
    """How the model is built, for batches' own statistics and for given ones; shapes."""
    model = nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0)))
    for _, module in nnx.iter_modules(model):
        if isinstance(module, nnx.BatchNorm):
            module.momentum = 0.0  # The statistics kept are then the last batch's.
    normalizing, _, shapes = nnx.split(model, nnx.Param, ...)
    model.eval()
    evaluating, _, _ = nnx.split(model, nnx.Param, ...)
    return normalizing, evaluating, shapes


def _cross_entropy(model: Any, batch: Examples) -> Float[Array, " n"]:
    logits = model(batch.inputs)
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)


def gradients(model: Losses, params: PyTree, batch: Examples, chosen: int) -> Found:
    """Mean loss of the highest losses, and its gradient, by each of three definitions.

    Args:
      model: its losses.
      params: the weights.
      batch: the whole batch.
      chosen: how many of the highest losses.
    """
    everyone, statistics = model.own(params, batch)
    _, rows = jax.lax.top_k(everyone, chosen)
    alone = Examples(batch.inputs[rows], batch.labels[rows])
    definitions = {
        "published": lambda p: model.own(p, alone)[0].mean(),
        "through": lambda p: model.own(p, batch)[0][rows].mean(),
        "constants": lambda p: model.given(p, statistics, alone).mean(),
    }
    return {name: jax.value_and_grad(f)(params) for name, f in definitions.items()}


def figures(params: PyTree, found: Found) -> dict[str, Array]:
    """What the table shows: cosines with the published gradient, norms, and kernels.

    Args:
      params: the weights.
      found: the gradients there.
    """
    by_name = {name: gradient for name, (_, gradient) in found.items()}
    published = by_name["published"]
    norms = {name: optax.tree.norm(gradient) for name, gradient in by_name.items()}
    return {
        "cosine_through": _cosine(published, by_name["through"]),
        "cosine_constants": _cosine(published, by_name["constants"]),
        "norm_ratio_constants": norms["constants"] / norms["published"],
    } | {f"kernel_cosine_{name}": _kernels(params, g) for name, g in by_name.items()}


def _cosine(a: PyTree, b: PyTree) -> Float[Array, ""]:
    norms = optax.tree.norm(a) * optax.tree.norm(b)
    return jnp.divide(optax.tree.vdot(a, b), norms)


def _kernels(params: PyTree, gradient: PyTree) -> Float[Array, ""]:
    """The largest |cosine| between a convolution's kernel and its gradient."""
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(gradient), strict=True)
    cosines = [abs(_cosine(kernel, g)) for kernel, g in pairs if kernel.ndim == 4]
    return jnp.max(jnp.stack(cosines))
