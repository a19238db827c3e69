"""Wide residual networks, such as WRN-28-10, with BatchNorm or GroupNorm."""

from collections.abc import Sequence

import jax
from flax import nnx
from jax.typing import DTypeLike

from experiments.models.layers import Norm, conv, norms


class WideResNet(nnx.Module):
    """Few pre-activation blocks, with many channels, on images of about 32x32 pixels.

    Three stages of (depth - 4) / 6 blocks, of 16, 32 and 64 channels times `widen`; the
    second and third stage halve the resolution. WRN-28-10, the default, has 36,479,194
    parameters with 10 classes and 36,536,884 with 100; published are 36.5M (Zagoruyko
    and Komodakis, 2016). There is no dropout.

    Because blocks normalize first, one more normalization and ReLU follow the last.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        classes: int,
        *,
        depth: int = 28,
        widen: int = 10,
        norm: str = "batch",
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        """Makes the layers.

        Args:
          image_shape: height, width, channels; only the last matters.
          classes: number of logits.
          depth: layers as the paper counts them; 4 more than a multiple of 6.
          widen: factor of the channels; 1 is a thin ResNet.
          norm: "batch" or "group"; see `layers.norms`.
          dtype: of the computation; the parameters are float32, and so is the head.
          rngs: random streams for the initial weights.

        Raises:
          ValueError: if there is no network of this depth.
        """
        blocks, rest = divmod(depth - 4, 6)
        if rest or blocks < 1:
            raise ValueError(
                f"WideResNet(depth={depth}): depth must be 6 n + 4 with n blocks in each "
                f"stage: 10, 16, 22, 28, ..."
            )
        normalize = norms(dtype)[norm]
        self.stem = conv(image_shape[-1], 16, 3, 1, dtype, rngs)
        self.blocks = nnx.List()
        entering = 16
        for stage, width in enumerate((16 * widen, 32 * widen, 64 * widen)):
            for i in range(blocks):
                stride = 2 if stage > 0 and i == 0 else 1
                block = PreActivationBlock(
                    entering, width, stride, norm=normalize, dtype=dtype, rngs=rngs
                )
                self.blocks.append(block)
                entering = width
        self.norm = normalize(entering, rngs=rngs)
        self.head = nnx.Linear(entering, classes, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits of shape (N, classes) for images (N, height, width, channels)."""
        x = self.stem(images)
        for block in self.blocks:
            x = block(x)
        x = jax.nn.relu(self.norm(x))
        return self.head(x.mean(axis=(1, 2)))


class PreActivationBlock(nnx.Module):
    """Norm, ReLU, 3x3 convolution, twice, beside a shortcut.

    Where shapes are the same the shortcut is x itself; elsewhere it is a 1x1 convolution
    of what the first norm and ReLU return, as in the authors' code, and not of x.
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
        self.is_projected = stride != 1 or before != after
        if self.is_projected:
            self.projection = conv(before, after, 1, stride, dtype, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns (N, height / stride, width / stride, after) for x (N, ..., before)."""
        activated = jax.nn.relu(self.norm1(x))
        shortcut = self.projection(activated) if self.is_projected else x
        x = jax.nn.relu(self.norm2(self.conv1(activated)))
        return shortcut + self.conv2(x)
