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
from experiments.judging import scores
from experiments.judging.objectives import CLASSES
from experiments.judging.rise import rise, uphill
from experiments.models import PureModel
from experiments.models.pure import Variables
from experiments.training.look import Look, look
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

    def looked(params: PyTree, examples: Examples) -> Look:
        return look(model, CLASSES, Variables(params, model.nothing), *examples)

    def total_loss(params: PyTree, examples: Examples) -> Array:
        return jnp.sum(looked(params, examples).losses)

    predictions = _over_replicas(lambda *args: looked(*args).predictions, protocol, _joined)
    total = _over_replicas(total_loss, protocol, _added)
    gradient = _over_replicas(jax.grad(total_loss), protocol, _added)
    climb = jax.jit(jax.vmap(uphill))

    def accuracy(params: PyTree, examples: Examples) -> np.ndarray:
        labels = np.asarray(examples.labels)
        found = np.asarray(predictions(params, examples))
        return np.array([scores.accuracy(replica, labels) for replica in found])

    def loss(params: PyTree, examples: Examples) -> np.ndarray:
        return np.asarray(total(params, examples), np.float64) / examples.number

    def sharpness(params: PyTree, examples: Examples) -> np.ndarray:
        def of(measure: Callable[[PyTree, Examples], Any]) -> Callable[[PyTree], Any]:
            return lambda params: measure(params, examples)

        return rise(of(loss), of(gradient), climb, params)

    return Evaluator(accuracy, loss, sharpness)


def _added(*chunks: Array) -> Array:
    return sum(chunks[1:], chunks[0])


def _joined(*chunks: Array) -> Array:
    """Along the examples, which are behind the replicas."""
    return jnp.concatenate(chunks, axis=1)


def _over_replicas(
    function: Callable[..., Any], protocol: Protocol, together: Callable[..., Array]
) -> Callable[..., Any]:
    """Turns (parameters, examples) -> arrays into the same over replicas and chunks."""
    compiled = jax.jit(over_group(function, protocol, in_axes=(0, None)))

    def one_group(params: PyTree, examples: Examples) -> PyTree:
        found = [compiled(params, chunk) for chunk in chunks(examples, CHUNK)]
        return jax.tree.map(together, *found)

    def all_groups(params: PyTree, examples: Examples) -> PyTree:
        groups = [one_group(group, examples) for group in grouped(params, protocol)]
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *groups)

    return all_groups


def losses_of(model: PureModel) -> Callable[[PyTree, Examples], Array]:
    """The cross-entropy of each example, as in use.

    To be made once for all replicas: what is compiled is so for its identity.
    """

    def losses(params: PyTree, examples: Examples) -> Array:
        return look(model, CLASSES, Variables(params, model.nothing), *examples).losses

    return losses


def chunks(examples: Examples, size: int) -> list[Examples]:
    """All examples in order, the last chunk smaller if they don't divide."""
    return [
        Examples(examples.inputs[i : i + size], examples.labels[i : i + size])
        for i in range(0, examples.number, size)
    ]
