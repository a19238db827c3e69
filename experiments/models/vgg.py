"""VGG for small images, with BatchNorm or GroupNorm."""

from collections.abc import Sequence

import jax
from flax import nnx
from jax.typing import DTypeLike

from experiments.models.layers import Norm, conv, norms

VGG16 = ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3)


class VGG(nnx.Module):
    """Stages of 3x3 convolutions, each with a norm and ReLU, and max-pooling behind each.

    The default stages are the 13 convolutions of VGG16 (Simonyan and Zisserman, 2015).
    In place of the paper's three dense layers there is one linear head on 512 numbers: the
    last map, of one pixel for images of 32x32, and elsewhere its mean. This is the VGG16
    of kuangliu/pytorch-cifar, whose convolutions have biases too: 14,728,266 parameters
    with 10 classes and 14,774,436 with 100. (The paper's 138M are for images of 224x224,
    and most of them are in the dense layers.)

    BatchNorm subtracts those biases again, so that their gradients are zero but for
    rounding; GroupNorm doesn't.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        classes: int,
        *,
        stages: Sequence[Sequence[int]] = VGG16,
        norm: str = "batch",
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        """Makes the layers.

        Args:
          image_shape: height, width, channels; only the last matters.
          classes: number of logits.
          stages: channels of each convolution, stage by stage.
          norm: "batch" or "group"; see `layers.norms`.
          dtype: of the computation; the parameters are float32, and so is the head.
          rngs: random streams for the initial weights.
        """
        normalize = norms(dtype)[norm]
        self.stages = nnx.List()
        entering = image_shape[-1]
        for widths in stages:
            layers = nnx.List()
            for width in widths:
                layers.append(
                    Layer(entering, width, norm=normalize, dtype=dtype, rngs=rngs)
                )
                entering = width
            self.stages.append(layers)
        self.head = nnx.Linear(entering, classes, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits of shape (N, classes) for images (N, height, width, channels)."""
        x = images
        for layers in self.stages:
            for layer in layers:
                x = layer(x)
            # "SAME", so that sides which five stages can't halve, such as 28, remain.
            x = nnx.max_pool(x, (2, 2), strides=(2, 2), padding="SAME")
        return self.head(x.mean(axis=(1, 2)))


class Layer(nnx.Module):
    """Convolution of 3x3, norm and ReLU."""

    def __init__(
        self,
        before: int,
        after: int,
        *,
        norm: Norm,
        dtype: DTypeLike | None,
        rngs: nnx.Rngs,
    ):
        self.conv = conv(before, after, 3, 1, dtype, rngs, use_bias=True)
        self.norm = norm(after, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns (N, height, width, after) for x (N, height, width, before)."""
        return jax.nn.relu(self.norm(self.conv(x)))
