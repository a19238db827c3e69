"""ImageNet (ILSVRC 2012) through TFDS: images of any size, decoded and cropped by Pillow.

Nobody may pass it on, so that TFDS prepares it from the archives that image-net.org gives
to those who register. Training sees a random part of each image, evaluation its middle;
`experiments.data.augment` mirrors them on the device.
"""

import functools
import io
import itertools
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from experiments.data.examples import Dataset, Examples
from experiments.data.normalization import Normalization
from experiments.data.prepared import Source, data_source
from experiments.shell.cli import UsageError, one_of

NAME = "imagenet2012"
# The labels of its own test split aren't public: models are judged on the validation set.
SPLITS = {"train": "train", "test": "validation"}
NORMALIZATION = Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

# What evaluation keeps of the shorter side: 224 pixels of 256.
KEPT = 224 / 256
# What a random part may be: share of the image's area, and width over height.
AREAS = (0.08, 1.0)
ASPECTS = (3 / 4, 4 / 3)
TRIES = 10
# Other random numbers of the same seed have another purpose, or shorter keys: the order of
# the examples in `experiments.data.batches` has (epoch,).
CROPS = 3

Pixels = UInt8[np.ndarray, "size size 3"]


class Box(NamedTuple):
    """A part of an image, in pixels from its upper left corner."""

    left: float
    top: float
    right: float
    bottom: float


def load(data_dir: Path | None = None, split: str = "train", size: int = 224) -> Dataset:
    """Opens ImageNet, whose images are decoded when they are fetched, to uint8.

    Args:
      data_dir: where TFDS keeps its datasets; None: its default.
      split: "train"; or "test", which is the official validation set.
      size: height and width of what is fetched.

    Raises:
      UsageError: if there is no such split, or it isn't prepared in `data_dir`; and on
        fetching, if an image is damaged.
    """
    source = _source(data_dir, SPLITS[one_of("split", split, SPLITS)])
    info = source.dataset_info

    def fetch(indices: Int[np.ndarray, " n"]) -> Examples:
        return _fetched(source, indices, lambda image, _: evaluated(image, size))

    def random_fetch(indices: Int[np.ndarray, " n"], epoch: int, seed: int) -> Examples:
        def part(image: ImageFile, index: int) -> Pixels:
            return random_part(image, size, generator(seed, epoch, index))

        return _fetched(source, indices, part)

    return Dataset(
        title="ImageNet",
        source=f"tensorflow_datasets {info.full_name}",
        shape=(size, size, 3),
        classes=info.features["label"].num_classes,
        size=source.size,
        fetch=fetch,
        random_fetch=random_fetch,
        judged_on="ImageNet validation",
    )


def _source(data_dir: Path | None, split: str) -> Source:
    import tensorflow_datasets as tfds

    # The files' bytes, since TFDS would decode more than is needed.
    decoders = {"image": tfds.decode.SkipDecoding()}
    return data_source(NAME, split, data_dir, decoders=decoders)


def _fetched(
    source: Source,
    indices: Int[np.ndarray, " n"],
    prepare: Callable[[ImageFile, int], Pixels],
) -> Examples:
    """Examples as `prepare` makes them of an image, not decoded yet, and its number."""
    numbers = indices.tolist()
    rows = source.rows(numbers)
    # Pillow lets other threads run while it decodes.
    images = list(_decoders().map(_opened, rows, numbers, itertools.repeat(prepare)))
    return Examples(np.stack(images), np.asarray([row["label"] for row in rows], np.int32))


@functools.cache
def _decoders() -> ThreadPoolExecutor:
    """A thread for each processor, for all datasets of the process."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="decode")


def _opened(row: Any, index: int, prepare: Callable[[ImageFile, int], Pixels]) -> Pixels:
    try:
        with Image.open(io.BytesIO(row["image"])) as image:
            return prepare(image, index)
    # What Pillow raises of damaged files: of PNG a SyntaxError.
    except (OSError, SyntaxError, ValueError) as error:
        # Pillow's text would name an object in memory.
        is_unknown = isinstance(error, UnidentifiedImageError)
        raise UsageError(
            f"example {index} of ImageNet, {row['file_name'].decode()}, can't be decoded: "
            f"{'this is no image' if is_unknown else error}; the prepared files are "
            f"damaged: prepare or copy them again"
        ) from error


def evaluated(image: ImageFile, size: int) -> Pixels:
    """The middle of the image, once its shorter side is `size` * 256 / 224 pixels."""
    return _resized(image, central_box(*image.size), size)


def random_part(image: ImageFile, size: int, rng: np.random.Generator) -> Pixels:
    """A random part of the image, stretched to a square."""
    box = random_box(rng, *image.size)
    return _resized(image, _draft(image, box, size), size)


def generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The random numbers of an example in an epoch, wherever and with whatever it is read.

    Args:
      seed: of the run.
      epoch: in which it is seen.
      index: the example's number.
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(CROPS, epoch, index))
    return np.random.default_rng(sequence)


def central_box(width: int, height: int) -> Box:
    """The square in the middle that evaluation sees."""
    side = KEPT * min(width, height)
    return _centred(width, height, side, side)


def random_box(rng: np.random.Generator, width: int, height: int) -> Box:
    """A box of random area and aspect that lies anywhere in an image of that size.

    Areas are uniform, aspects log-uniform. If ten boxes don't fit, which happens with
    aspects far from 1, it is the largest one in the middle whose aspect is allowed.

    Reference: Szegedy et al., Going Deeper with Convolutions (2015), in torchvision's
    reading (`RandomResizedCrop`).
    """
    least, most = ASPECTS
    for _ in range(TRIES):
        area = width * height * rng.uniform(*AREAS)
        aspect = math.exp(rng.uniform(math.log(least), math.log(most)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.integers(width - w + 1), rng.integers(height - h + 1)
            return Box(int(left), int(top), int(left) + w, int(top) + h)
    return _centred(width, height, min(width, height * most), min(height, width / least))


def _centred(width: int, height: int, w: float, h: float) -> Box:
    left, top = (width - w) / 2, (height - h) / 2
    return Box(left, top, left + w, top + h)


def _draft(image: ImageFile, box: Box, size: int) -> Box:
    """Has a large JPEG decoded at 1/2, 1/4 or 1/8 of its size; the box in that.

    Twice as many pixels as are asked for remain in the box, so that the result is close to
    that of all of them: the `reducing_gap` of Pillow's own thumbnails.
    """
    width, height = image.size
    least = (
        math.ceil(2 * size * width / (box.right - box.left)),
        math.ceil(2 * size * height / (box.bottom - box.top)),
    )
    reduced = image.draft(None, least)
    # Other formats don't know this.
    if reduced is None:
        return box
    factor = reduced[1][2] / width
    return Box(*(factor * side for side in box))


def _resized(image: ImageFile, box: Box, size: int) -> Pixels:
    # Greyscale, CMYK and palettes are among them.
    coloured = image if image.mode == "RGB" else image.convert("RGB")
    # Bilinear as Pillow means it: over all pixels that become one, so without aliasing.
    square = coloured.resize((size, size), Image.Resampling.BILINEAR, box=box)
    return np.asarray(square)
