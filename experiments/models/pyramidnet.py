"""Pyramidal residual networks, such as PyramidNet-110, with BatchNorm or GroupNorm."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from experiments.models.layers import Norm, conv, norms


class PyramidNet(nnx.Module):
    """Residual blocks that each add a few channels, on images of about 32x32 pixels.

    The additive network of basic blocks (Han et al., 2017): (depth - 2) / 2 blocks in
    three stages, whose channels grow evenly from 16 to 16 + alpha; the second and third
    stage halve the resolution.

    PyramidNet-110 with alpha 270, the default, has 28,485,477 parameters with 10 classes
    and 28,511,307 with 100. The paper prints 28.3M, which we cannot reproduce: the
    network of the authors' code (jhkim89/PyramidNet) is this one, and has as many.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        classes: int,
        *,
        depth: int = 110,
        alpha: float = 270,
        norm: str = "batch",
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        """Makes the layers.

        Args:
          image_shape: height, width, channels; only the last matters.
          classes: number of logits.
          depth: layers as the paper counts them; 2 more than a multiple of 6.
          alpha: channels that all blocks together add to the 16 of the first layer.
          norm: "batch" or "group"; see `layers.norms`.
          dtype: of the computation; the parameters are float32, and so is the head.
          rngs: random streams for the initial weights.

        Raises:
          ValueError: if there is no network of this depth.
        """
        widths = channels(depth, alpha)
        normalize = norms(dtype)[norm]
        self.stem = conv(image_shape[-1], widths[0], 3, 1, dtype, rngs)
        self.stem_norm = normalize(widths[0], rngs=rngs)
        per_stage = (len(widths) - 1) // 3
        self.blocks = nnx.List()
        for i in range(3 * per_stage):
            stride = 2 if i in (per_stage, 2 * per_stage) else 1
            block = PyramidBlock(
                widths[i], widths[i + 1], stride, norm=normalize, dtype=dtype, rngs=rngs
            )
            self.blocks.append(block)
        self.norm = normalize(widths[-1], rngs=rngs)
        self.head = nnx.Linear(widths[-1], classes, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits of shape (N, classes) for images (N, height, width, channels)."""
        x = self.stem_norm(self.stem(images))
        for block in self.blocks:
            x = block(x)
        x = jax.nn.relu(self.norm(x))
        return self.head(x.mean(axis=(1, 2)))


class PyramidBlock(nnx.Module):
    """Norm, convolution, norm, ReLU, convolution, norm, beside a shortcut without weights.

    There is no ReLU before the first convolution and none behind the sum. The shortcut
    is x, averaged over windows of 2x2 where the stride is 2, with zeros for the channels
    that the block adds.
    """

    def __init__(
        self,
        before: int,
        after: int,
        stride: int,
        *,
        norm: Norm,
        dtype: DTypeLike | None,
        rngs: nnx.Rngs,
    ):
        self.norm1 = norm(before, rngs=rngs)
        self.conv1 = conv(before, after, 3, stride, dtype, rngs)
        self.norm2 = norm(after, rngs=rngs)
        self.conv2 = conv(after, after, 3, 1, dtype, rngs)
        self.norm3 = norm(after, rngs=rngs)
        self.added = after - before
        self.is_halved = stride == 2

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns (N, height / stride, width / stride, after) for x (N, ..., before)."""
        shortcut = _halve(x) if self.is_halved else x
        shortcut = jnp.pad(shortcut, [(0, 0)] * 3 + [(0, self.added)])
        x = jax.nn.relu(self.norm2(self.conv1(self.norm1(x))))
        return shortcut + self.norm3(self.conv2(x))


def channels(depth: int, alpha: float) -> list[int]:
    """Returns the channels behind the stem and behind each block."""
    per_stage, rest = divmod(depth - 2, 6)
    if rest or per_stage < 1:
        raise ValueError(
            f"PyramidNet(depth={depth}): depth must be 6 n + 2 with n blocks in each "
            f"stage: 8, 14, ..., 110, ..."
        )
    blocks = 3 * per_stage
    # To the nearest, as in the authors' code; the paper rounds down.
    return [math.floor(16 + alpha * i / blocks + 0.5) for i in range(blocks + 1)]


def _halve(x: jax.Array) -> jax.Array:
    """Averages windows of 2x2, with zeros beyond an odd side, as the convolution has."""
    # Not `nnx.avg_pool`, which divides by an int64 and so breaks strict promotion.
    return nnx.pool(x, 0.0, jax.lax.add, (2, 2), (2, 2), "SAME") / 4
