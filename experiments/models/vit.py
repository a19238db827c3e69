"""A vision transformer."""

from collections.abc import Sequence

import jax
from flax import nnx
from jax.typing import DTypeLike

from experiments.models.encoder import Encoder


class ViT(nnx.Module):
    """Square patches as tokens, an encoder, the mean over the tokens, a linear head.

    As in Dosovitskiy et al. (2021), with the mean in place of a class token (Beyer et
    al., 2022). The default sizes are small. By the names of Touvron et al. (2021),

    - ViT-Ti has width 192, depth 12 and 3 heads: 5,362,378 parameters on images of
      32x32x3 with 10 classes;
    - ViT-S has width 384, depth 12 and 6 heads: 21,341,578.

    On images of 224x224x3, with patches of 16 and 1,000 classes, they have 5,717,032 and
    22,049,896: timm's 5,717,416 and 22,050,664 (published as 5.7M and 22.1M) less the
    class token and its position.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        classes: int,
        *,
        patch: int = 4,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        """Makes the layers.

        Args:
          image_shape: height, width, channels.
          classes: number of logits.
          patch: side of a patch, which divides height and width.
          width: numbers per token.
          depth: blocks.
          heads: of the attention.
          dtype: of the computation; the parameters are float32, and so is the head.
          rngs: random streams for the initial weights.

        Raises:
          ValueError: if patches don't cover the image.
        """
        height, breadth, channels = image_shape
        if height % patch or breadth % patch:
            raise ValueError(
                f"ViT(patch={patch}): patch must divide the image's sides; got "
                f"{height}x{breadth}"
            )
        self.patches = nnx.Conv(
            channels,
            width,
            (patch, patch),
            strides=(patch, patch),
            padding="VALID",
            dtype=dtype,
            rngs=rngs,
        )
        length = (height // patch) * (breadth // patch)
        self.encoder = Encoder(length, width, depth, heads, dtype=dtype, rngs=rngs)
        self.head = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits of shape (N, classes) for images (N, height, width, channels)."""
        x = self.patches(images)
        tokens = x.reshape(x.shape[0], -1, x.shape[-1])
        return self.head(self.encoder(tokens))
