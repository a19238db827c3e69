"""ResNet-18 for small images, with BatchNorm or GroupNorm."""

from collections.abc import Sequence

import jax
from flax import nnx
from jax.typing import DTypeLike

from experiments.models.layers import Norm, conv, norms


class ResNet(nnx.Module):
    """Residual network of basic blocks on images of about 32x32 pixels.

    The first convolution is 3x3 of stride 1, without a pooling layer behind it: images
    of this size have nothing to spare. Each stage but the first halves the resolution.
    With the default widths, four stages of two blocks, this is ResNet-18 (He et al.,
    2016): 11,173,962 parameters with 10 classes.

    BatchNorm couples the examples of a batch, so a loss made of it is of a whole batch;
    with `norm="group"` the loss of one example is a function of that example alone.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        classes: int,
        *,
        widths: Sequence[int] = (64, 128, 256, 512),
        blocks: int = 2,
        norm: str = "batch",
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        """Makes the layers.

        Args:
          image_shape: height, width, channels; only the last matters.
          classes: number of logits.
          widths: channels of each stage.
          blocks: residual blocks of each stage.
          norm: "batch" or "group"; see `layers.norms`.
          dtype: of the computation; the parameters are float32, and so is the head.
          rngs: random streams for the initial weights.
        """
        normalize = norms(dtype)[norm]
        self.stem = conv(image_shape[-1], widths[0], 3, 1, dtype, rngs)
        self.norm = normalize(widths[0], rngs=rngs)
        self.blocks = nnx.List()
        entering = widths[0]
        for stage, width in enumerate(widths):
            for i in range(blocks):
                stride = 2 if stage > 0 and i == 0 else 1
                block = BasicBlock(
                    entering, width, stride, norm=normalize, dtype=dtype, rngs=rngs
                )
                self.blocks.append(block)
                entering = width
        self.head = nnx.Linear(widths[-1], classes, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits of shape (N, classes) for images (N, height, width, channels)."""
        x = jax.nn.relu(self.norm(self.stem(images)))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(axis=(1, 2)))


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions beside a shortcut, which is projected where shapes differ."""

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
        self.conv1 = conv(before, after, 3, stride, dtype, rngs)
        self.norm1 = norm(after, rngs=rngs)
        self.conv2 = conv(after, after, 3, 1, dtype, rngs)
        self.norm2 = norm(after, rngs=rngs)
        self.is_projected = stride != 1 or before != after
        if self.is_projected:
            self.projection = conv(before, after, 1, stride, dtype, rngs)
            self.projection_norm = norm(after, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns (N, height / stride, width / stride, after) for x (N, ..., before)."""
        shortcut = self.projection_norm(self.projection(x)) if self.is_projected else x
        x = jax.nn.relu(self.norm1(self.conv1(x)))
        return jax.nn.relu(shortcut + self.norm2(self.conv2(x)))
