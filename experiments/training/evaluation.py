"""What trained replicas are judged by: accuracy, loss, and sharpness.

Everything takes parameters with a leading axis of replicas and returns arrays
(replicas,). Examples pass in chunks, so that no network sees ten thousand at once.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from experiments.configs.compare import Protocol
from experiments.data.examples import Examples
from experiments.judging.objectives import cross_entropy, most_likely
from experiments.judging.rise import uphill
from experiments.models import PureModel
from experiments.training.replicas import grouped, over_group

CHUNK = 2048


class Evaluator(NamedTuple):
    """Compiled measures of replicas.

    Attributes:
      accuracy: (parameters, examples) -> fraction of correct predictions. Logits that
        aren't finite predict nothing: a diverged replica has accuracy 0.
      loss: (parameters, examples) -> mean cross-entropy.
      sharpness: (parameters, examples) -> how much the mean loss rises at distance
        `rise.RADIUS` along its own gradient. The same measure for every method, whatever
        radius and direction it trained with.
    """

    accuracy: Callable[[PyTree, Examples], Float[np.ndarray, " replicas"]]
    loss: Callable[[PyTree, Examples], Float[np.ndarray, " replicas"]]
    sharpness: Callable[[PyTree, Examples], Float[np.ndarray, " replicas"]]


def evaluator(model: PureModel, protocol: Protocol) -> Evaluator:
    """Makes the measures for a model; they are compiled at their first use."""

    def correct(params: PyTree, examples: Examples) -> Array:
        logits = model.logits(params, examples.inputs, model.nothing)
        return jnp.sum(hits(logits, examples.labels))

    losses = losses_of(model)

    def total_loss(params: PyTree, examples: Examples) -> Array:
        return jnp.sum(losses(params, examples))

    count = _over_replicas(correct, protocol)
    loss = _over_replicas(total_loss, protocol)
    gradient = _over_replicas(jax.grad(total_loss), protocol)
    climb = jax.jit(jax.vmap(uphill))

    def mean(totals: Array, examples: Examples) -> np.ndarray:
        return np.asarray(totals, np.float64) / examples.number

    def sharpness(params: PyTree, examples: Examples) -> np.ndarray:
        higher = climb(params, gradient(params, examples))
        return mean(loss(higher, examples), examples) - mean(
            loss(params, examples), examples
        )

    return Evaluator(
        lambda params, examples: mean(count(params, examples), examples),
        lambda params, examples: mean(loss(params, examples), examples),
        sharpness,
    )


def _over_replicas(total: Callable[..., Any], protocol: Protocol) -> Callable[..., Any]:
    """Turns (parameters, examples) -> sum into the same over replicas and chunks."""
    compiled = jax.jit(over_group(total, protocol, in_axes=(0, None)))

    def one_group(params: PyTree, examples: Examples) -> PyTree:
        sums = [compiled(params, chunk) for chunk in chunks(examples, CHUNK)]
        return jax.tree.map(lambda *parts: sum(parts[1:], parts[0]), *sums)

    def all_groups(params: PyTree, examples: Examples) -> PyTree:
        groups = [one_group(group, examples) for group in grouped(params, protocol)]
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *groups)

    return all_groups


def losses_of(model: PureModel) -> Callable[[PyTree, Examples], Array]:
    """The cross-entropy of each example, as in use.

    To be made once for all replicas: what is compiled is so for its identity.
    """

    def losses(params: PyTree, examples: Examples) -> Array:
        logits = model.logits(params, examples.inputs, model.nothing)
        return cross_entropy(logits, examples.labels)

    return losses


def chunks(examples: Examples, size: int) -> list[Examples]:
    """All examples in order, the last chunk smaller if they don't divide."""
    return [
        Examples(examples.inputs[i : i + size], examples.labels[i : i + size])
        for i in range(0, examples.number, size)
    ]


def hits(logits: Array, labels: Array) -> Array:
    """Which examples are predicted right; logits that aren't finite predict nothing."""
    return most_likely(logits) == labels
