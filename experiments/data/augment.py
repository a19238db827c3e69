"""Augmentation inside the jitted step: pure functions of one example and its key.

An example's key follows from the run's seed, the epoch and the example's number, so that
a run that was stopped goes on with the same pictures, on however many devices:

    keys = example_keys(seed, rows.epoch, rows.index)
    images = augmented(CROP_AND_FLIP, normalization, keys, rows.inputs)
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, UInt8

from experiments.data.normalization import Normalization, normalized
from experiments.shell.cli import UsageError

# Keys of other purposes are folded from the same seed with other numbers: weights 0,
# batches 1 (`experiments.training.replicas`).
AUGMENTATION = 2


@dataclass(frozen=True)
class Augmentation:
    """What happens to a training image; all off by default.

    Attributes:
      crop: zeros put around the image before a random part of the old size is cut out; 0:
        no crop.
      flip: whether left and right are swapped with probability 1/2.
      cutout: side of the square that is blanked; 0: none.

    Raises:
      UsageError: if a size is negative.
    """

    crop: int = 0
    flip: bool = False
    cutout: int = 0

    def __post_init__(self):
        for name in ("crop", "cutout"):
            value = getattr(self, name)
            if value < 0:
                raise UsageError(
                    f"{name} must be a number of pixels, at least 0; got {value}: "
                    f"0 turns it off"
                )


NOTHING = Augmentation()
# What the papers call standard for CIFAR.
CROP_AND_FLIP = Augmentation(crop=4, flip=True)


def example_keys(
    seed: int | Int[Array, ""],
    epoch: Int[Array, " n"],
    index: Int[Array, " n"],
    purpose: int = AUGMENTATION,
) -> Key[Array, " n"]:
    """A key for each example, another one in each epoch.

    Args:
      seed: of the run.
      epoch: in which the examples are seen.
      index: the examples' numbers.
      purpose: a number for each thing that keys are used for: with another one than
        augmentation's, keys of dropout are independent of those of augmentation.
    """
    key = jax.random.fold_in(jax.random.key(seed), purpose)

    def one(epoch: Int[Array, ""], index: Int[Array, ""]) -> Key[Array, ""]:
        return jax.random.fold_in(jax.random.fold_in(key, epoch), index)

    return jax.vmap(one)(epoch, index)


def augmented(
    augmentation: Augmentation,
    normalization: Normalization,
    keys: Key[Array, " n"],
    images: UInt8[Array, "n h w d"],
) -> Float[Array, "n h w d"]:
    """Training images in float32: cropped, flipped, normalized, cut out.

    Raises:
      UsageError: if the images don't have the normalization's channels.
      TypeError: if the images aren't bytes.
    """

    def one(key: Key[Array, ""], image: UInt8[Array, "h w d"]) -> Float[Array, "h w d"]:
        return augment(augmentation, normalization, key, image)

    return jax.vmap(one)(keys, images)


def augment(
    augmentation: Augmentation,
    normalization: Normalization,
    key: Key[Array, ""],
    image: UInt8[Array, "h w d"],
) -> Float[Array, "h w d"]:
    """One training image."""
    # Always three keys: switching one part off leaves the others' choices as they are.
    crop_key, flip_key, cutout_key = jax.random.split(key, 3)
    if augmentation.crop:
        image = random_crop(crop_key, image, augmentation.crop)
    if augmentation.flip:
        image = random_flip(flip_key, image)
    result = normalized(normalization, image)
    # After normalization, where zero is the mean: DeVries & Taylor do so lest Cutout
    # change the statistics of the batch. The zeros around a crop are black, as usual.
    if augmentation.cutout:
        result = cutout(cutout_key, result, augmentation.cutout)
    return result


def random_crop(
    key: Key[Array, ""], image: UInt8[Array, "h w d"], padding: int
) -> UInt8[Array, "h w d"]:
    """A part of the image's size, anywhere in the image with zeros around it."""
    padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    top, left = jax.random.randint(key, (2,), 0, 2 * padding + 1)
    return jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)


def random_flip(key: Key[Array, ""], image: UInt8[Array, "h w d"]) -> UInt8[Array, "h w d"]:
    """The image, or with probability 1/2 its mirror image."""
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def cutout(
    key: Key[Array, ""], image: Float[Array, "h w d"], size: int
) -> Float[Array, "h w d"]:
    """The image with a square of zeros, whose centre is anywhere in the image.

    What lies beyond the border is lost, so that many squares are smaller. An odd size is
    taken as it is; the authors' program rounds it down to an even one.

    Reference: DeVries & Taylor, Improved Regularization of Convolutional Neural Networks
    with Cutout (2017).
    """
    height, width, _ = image.shape
    y, x = jax.random.randint(key, (2,), 0, jnp.array([height, width]))
    rows, columns = _within(y, height, size), _within(x, width, size)
    hole = rows[:, None, None] & columns[None, :, None]
    return jnp.where(hole, jnp.zeros_like(image), image)


def _within(centre: Int[Array, ""], length: int, size: int) -> Array:
    """Which of so many places are in a stretch of that size around its centre."""
    place = jnp.arange(length) - (centre - size // 2)
    return (place >= 0) & (place < size)
