"""An MLP's losses and gradient by hand: what of a forward pass chosen examples need."""

from collections.abc import Callable, Sequence

import jax
from jaxtyping import Array, Float, PyTree

from experiments.costs.benchmark.task import Batch
from experiments.judging.objectives import cross_entropy

Layers = Sequence[tuple[Array, Array]]


def look(
    params: PyTree, batch: Batch
) -> tuple[Float[Array, " N"], Callable[[Array], PyTree]]:
    """The losses, and from rows to the gradient of their sum over N, of the same pass."""
    values = _values(params, batch.inputs)
    losses = cross_entropy(values[-1], batch.labels)

    def gradient(rows: Array) -> PyTree:
        chosen = [x[rows] for x in values]
        return _backward(params, chosen, batch.labels[rows], len(losses))

    return losses, gradient


def gradient(params: PyTree, batch: Batch, n: int) -> PyTree:
    """The gradient of the sum of all losses, by n."""
    return _backward(params, _values(params, batch.inputs), batch.labels, n)


def _layers(params: PyTree) -> Layers:
    """Kernels and biases, from the first layer to the last."""
    leaves = jax.tree.leaves(params)
    return list(zip(leaves[1::2], leaves[::2], strict=True))


def _values(params: PyTree, images: Array) -> list[Array]:
    """The inputs of each layer, and the logits."""
    *hidden, last = _layers(params)
    values = [images.reshape(len(images), -1)]
    for kernel, bias in hidden:
        values.append(jax.nn.relu(values[-1] @ kernel + bias))
    return [*values, values[-1] @ last[0] + last[1]]


def _backward(params: PyTree, values: list[Array], labels: Array, n: int) -> PyTree:
    layers = _layers(params)
    logits = values[-1]
    rate = (jax.nn.softmax(logits) - jax.nn.one_hot(labels, logits.shape[1])) / n
    leaves: list[Array] = []
    for number in reversed(range(len(layers))):
        inputs = values[number]
        leaves = [rate.sum(0), inputs.T @ rate, *leaves]
        if number:
            rate = (rate @ layers[number][0].T) * (inputs > 0)
    return jax.tree.unflatten(jax.tree.structure(params), leaves)
