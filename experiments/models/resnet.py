"""ResNet-18 for small images, with BatchNorm or GroupNorm."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
from flax import nnx
from jax.typing import DTypeLike

# (features, rngs=...) -> a layer that normalizes.
Norm = Callable[..., Any]

_he_normal = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")


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
          norm: "batch" or "group" (of 32 groups, or as many as there are channels).
          dtype: of the computation; the parameters are float32, and so is the head.
          rngs: random streams for the initial weights.
        """
        normalize = _norms(dtype)[norm]
        self.stem = _conv(image_shape[-1], widths[0], 3, 1, dtype, rngs)
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
        self.conv1 = _conv(before, after, 3, stride, dtype, rngs)
        self.norm1 = norm(after, rngs=rngs)
        self.conv2 = _conv(after, after, 3, 1, dtype, rngs)
        self.norm2 = norm(after, rngs=rngs)
        self.is_projected = stride != 1 or before != after
        if self.is_projected:
            self.projection = _conv(before, after, 1, stride, dtype, rngs)
            self.projection_norm = norm(after, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns (N, height / stride, width / stride, after) for x (N, ..., before)."""
        shortcut = self.projection_norm(self.projection(x)) if self.is_projected else x
        x = jax.nn.relu(self.norm1(self.conv1(x)))
        return jax.nn.relu(shortcut + self.norm2(self.conv2(x)))


def _conv(
    before: int,
    after: int,
    size: int,
    stride: int,
    dtype: DTypeLike | None,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    # A padding that is the same on both sides, as in the paper, whatever the stride.
    padding = [(size // 2, size // 2)] * 2
    return nnx.Conv(
        before,
        after,
        (size, size),
        strides=(stride, stride),
        padding=padding,
        use_bias=False,
        kernel_init=_he_normal,
        dtype=dtype,
        rngs=rngs,
    )


def _norms(dtype: DTypeLike | None) -> dict[str, Norm]:
    def group(features: int, *, rngs: nnx.Rngs) -> nnx.GroupNorm:
        groups = min(32, features)
        return nnx.GroupNorm(features, num_groups=groups, dtype=dtype, rngs=rngs)

    return {"batch": partial(nnx.BatchNorm, momentum=0.9, dtype=dtype), "group": group}
