"""Pixels in the unit that models train in: less a mean, over a standard deviation."""

import math
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num, UInt8

from experiments.shell.cli import UsageError

# Pixels are bytes; means and standard deviations are those of pixels from 0 to 1, the unit
# in which they are published, unless a data set has another one.
SCALE = 255


@dataclass(frozen=True)
class Normalization:
    """What is taken off each channel's pixels, and what they are divided by.

    .. math:: (pixel / scale - mean) / std

    Attributes:
      mean, std: one for each channel, usually its mean and standard deviation.
      scale: the unit that both are in; pixels are bytes.

    Raises:
      UsageError: if the lengths differ, or a standard deviation isn't positive.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = SCALE

    def __post_init__(self):
        if len(self.mean) != len(self.std):
            raise UsageError(
                f"mean and std must have one value per channel each; got "
                f"{len(self.mean)} and {len(self.std)}"
            )
        if not all(0 < value < math.inf for value in self.std):
            raise UsageError(
                f"std must be positive in every channel; got {self.std}: give 1 for a "
                f"channel that never changes"
            )

    def __str__(self) -> str:
        """Such as "(pixel - 33.32) / 78.57", of several channels all of them."""
        mean, std = (
            ", ".join(f"{self.scale * value:g}" for value in values)
            for values in (self.mean, self.std)
        )
        return f"{f'(pixel - {mean})' if any(self.mean) else 'pixel'} / {std}"


def statistics(images: Num[np.ndarray, "n h w d"]) -> Normalization:
    """Means and standard deviations of the channels, over all pixels of all images.

    Args:
      images: their pixels are whole numbers from 0 to 255, of any type.

    Raises:
      UsageError: if a channel is the same everywhere.
    """
    # In parts, since as int64 they take 8 times the memory.
    parts = [images[i : i + 1000].astype(np.int64) for i in range(0, len(images), 1000)]
    totals = np.sum([part.sum((0, 1, 2)) for part in parts], axis=0).tolist()
    squares = np.sum([(part**2).sum((0, 1, 2)) for part in parts], axis=0).tolist()
    pixels = images[..., 0].size
    # Python's integers neither round nor overflow: a constant channel has exactly zero.
    variances = [
        (square * pixels - total**2) / pixels**2
        for total, square in zip(totals, squares, strict=True)
    ]
    return Normalization(
        mean=tuple(total / pixels / SCALE for total in totals),
        std=tuple(math.sqrt(variance) / SCALE for variance in variances),
    )


def normalized(
    normalization: Normalization, images: UInt8[Array, "*n h w d"]
) -> Float[Array, "*n h w d"]:
    """Images of any number in float32, less the mean, over the standard deviation.

    All that happens to images for evaluation.

    Raises:
      UsageError: if the images don't have the normalization's channels.
      TypeError: if the images aren't bytes.
    """
    _check(normalization, images)
    mean = jnp.asarray(normalization.mean, jnp.float32)
    std = jnp.asarray(normalization.std, jnp.float32)
    return (images.astype(jnp.float32) / normalization.scale - mean) / std


def _check(normalization: Normalization, images: Array) -> None:
    if images.dtype != jnp.uint8:
        raise TypeError(
            f"images must be uint8, pixels from 0 to {SCALE}; got {images.dtype}: "
            f"experiments.data.memory.compact converts them"
        )
    if images.shape[-1] != len(normalization.mean):
        raise UsageError(
            f"mean must have one value per channel; got {len(normalization.mean)} for "
            f"images with {images.shape[-1]}: take this dataset's own statistics"
        )
