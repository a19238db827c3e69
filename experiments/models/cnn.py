"""A small convolutional network with GroupNorm."""

import itertools
from collections.abc import Sequence

import jax
from flax import nnx
from jax.typing import DTypeLike


class CNN(nnx.Module):
    """Convolutions 3x3 of stride 2 with GroupNorm and ReLU, then two dense layers.

    GroupNorm looks at one example at a time, so that the loss of one example is a
    function of that example alone, as `ksam_jax.per_example` wants. `dtype` is that of
    the computation; the parameters are float32, and so is the last layer.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        classes: int,
        *,
        channels: Sequence[int] = (16, 32),
        dense: int = 128,
        groups: int = 4,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        height, width, depth = image_shape
        self.convs = nnx.List(
            [
                nnx.Conv(n, m, (3, 3), strides=(2, 2), dtype=dtype, rngs=rngs)
                for n, m in itertools.pairwise([depth, *channels])
            ]
        )
        self.norms = nnx.List(
            [nnx.GroupNorm(m, num_groups=groups, dtype=dtype, rngs=rngs) for m in channels]
        )
        for _ in channels:
            height, width = -(-height // 2), -(-width // 2)
        self.dense = nnx.Linear(
            height * width * channels[-1], dense, dtype=dtype, rngs=rngs
        )
        self.out = nnx.Linear(dense, classes, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits of shape (N, classes) for images (N, height, width, depth)."""
        x = images
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = jax.nn.relu(norm(conv(x)))
        x = x.reshape(x.shape[0], -1)
        return self.out(jax.nn.relu(self.dense(x)))
