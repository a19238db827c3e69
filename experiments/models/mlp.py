"""A multilayer perceptron over flattened images."""

import itertools
import math
from collections.abc import Sequence

import jax
from flax import nnx


class MLP(nnx.Module):
    """Hidden layers of the given widths with ReLU, then one linear layer."""

    def __init__(
        self,
        image_shape: Sequence[int],
        classes: int,
        *,
        widths: Sequence[int] = (256, 256),
        rngs: nnx.Rngs,
    ):
        sizes = [math.prod(image_shape), *widths, classes]
        self.layers = nnx.List(
            [nnx.Linear(n, m, rngs=rngs) for n, m in itertools.pairwise(sizes)]
        )

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits of shape (N, classes) for images (N, ...)."""
        x = images.reshape(images.shape[0], -1)
        *hidden, last = self.layers
        for layer in hidden:
            x = jax.nn.relu(layer(x))
        return last(x)
