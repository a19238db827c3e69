"""ResNet-50 for ImageNet, with BatchNorm or GroupNorm."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from experiments.models.layers import Norm, conv, norms


class BottleneckResNet(nnx.Module):
    """Residual network of bottlenecks on images of about 224x224 pixels.

    The first convolution, 7x7 of stride 2, and the pooling behind it halve the
    resolution, as does each stage but the first. With the default stages this is
    ResNet-50 (He et al., 2016) in its version 1.5, whose bottlenecks halve in the 3x3
    convolution: 25,557,032 parameters with 1,000 classes. Each block begins as its
    shortcut alone, since its last normalization's scales are zero (Goyal et al., 2017).
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        classes: int,
        *,
        blocks: Sequence[int] = (3, 4, 6, 3),
        width: int = 64,
        norm: str = "batch",
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        """Makes the layers.

        Args:
          image_shape: height, width, channels; only the last matters.
          classes: number of logits.
          blocks: bottlenecks of each stage.
          width: channels of the first stage's 3x3 convolutions; each stage has twice as
            many as the one before, and a bottleneck returns four times as many.
          norm: "batch" or "group"; see `layers.norms`.
          dtype: of the computation; the parameters are float32, and so is the head.
          rngs: random streams for the initial weights.
        """
        normalize = norms(dtype)[norm]
        self.stem = conv(image_shape[-1], width, 7, 2, dtype, rngs)
        self.norm = normalize(width, rngs=rngs)
        self.blocks = nnx.List()
        entering = width
        for stage, number in enumerate(blocks):
            for i in range(number):
                stride = 2 if stage > 0 and i == 0 else 1
                block = Bottleneck(
                    entering, width << stage, stride, norm=normalize, dtype=dtype, rngs=rngs
                )
                self.blocks.append(block)
                entering = 4 * width << stage
        self.head = nnx.Linear(entering, classes, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits of shape (N, classes) for images (N, height, width, channels)."""
        x = jax.nn.relu(self.norm(self.stem(images)))
        x = nnx.pool(x, -jnp.inf, jax.lax.max, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(axis=(1, 2)))


class Bottleneck(nnx.Module):
    """Convolutions 1x1, 3x3 and 1x1 beside a shortcut, projected where shapes differ.

    The first two have `width` channels, the last has four times as many; the stride is
    the 3x3 convolution's, and the shortcut's.
    """

    def __init__(
        self,
        before: int,
        width: int,
        stride: int,
        *,
        norm: Norm,
        dtype: DTypeLike | None,
        rngs: nnx.Rngs,
    ):
        after = 4 * width
        self.conv1 = conv(before, width, 1, 1, dtype, rngs)
        self.norm1 = norm(width, rngs=rngs)
        self.conv2 = conv(width, width, 3, stride, dtype, rngs)
        self.norm2 = norm(width, rngs=rngs)
        self.conv3 = conv(width, after, 1, 1, dtype, rngs)
        self.norm3 = norm(after, rngs=rngs)
        self.norm3.scale[...] = jnp.zeros_like(self.norm3.scale[...])
        self.is_projected = stride != 1 or before != after
        if self.is_projected:
            self.projection = conv(before, after, 1, stride, dtype, rngs)
            self.projection_norm = norm(after, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns (N, height / stride, ..., 4 width) for x (N, height, ..., before)."""
        shortcut = self.projection_norm(self.projection(x)) if self.is_projected else x
        x = jax.nn.relu(self.norm1(self.conv1(x)))
        x = jax.nn.relu(self.norm2(self.conv2(x)))
        return jax.nn.relu(shortcut + self.norm3(self.conv3(x)))
