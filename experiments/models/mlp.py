"""A multilayer perceptron over flattened images."""

import itertools
import math
from collections.abc import Sequence

import jax
from flax import nnx
from jax.typing import DTypeLike


class MLP(nnx.Module):
    """Hidden layers of the given widths with ReLU, then one linear layer.

    `dtype` is that of the computation; the parameters are float32, and so is the last
    layer.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        classes: int,
        *,
        widths: Sequence[int] = (256, 256),
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        sizes = [math.prod(image_shape), *widths]
        hidden = [
            nnx.Linear(n, m, dtype=dtype, rngs=rngs) for n, m in itertools.pairwise(sizes)
        ]
        self.layers = nnx.List([*hidden, nnx.Linear(sizes[-1], classes, rngs=rngs)])

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits of shape (N, classes) for images (N, ...)."""
        x = images.reshape(images.shape[0], -1)
        *hidden, last = self.layers
        for layer in hidden:
            x = jax.nn.relu(layer(x))
        return last(x)
