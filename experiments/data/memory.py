"""Small datasets, decoded once and kept in memory as bytes."""

import dataclasses
import math
import time

import jax
import numpy as np
from jaxtyping import Int, UInt8
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.progress import TimeRemainingColumn as TimeLeft

from experiments.data.examples import Dataset, Examples
from experiments.shell.cli import UsageError

LIMIT = 2 * 1024**3
CHUNK = 500


def decode(
    dataset: Dataset,
    console: Console | None = None,
    limit: int = LIMIT,
    purpose: str = "",
) -> Examples:
    """All examples of a dataset: images (N, height, width, depth) uint8, labels int32.

    Args:
      dataset: what to decode.
      console: shows progress; None shows nothing.
      limit: bytes that the images may take.
      purpose: of the examples, as shown.

    Raises:
      UsageError: if the images would take more, pixels aren't whole numbers from 0 to
        255, or labels don't belong to a class. The first is known before decoding.
    """
    _check_size(dataset, limit)
    images = np.empty((dataset.size, *dataset.shape), np.uint8)
    labels = np.empty(dataset.size, np.int32)
    start = time.monotonic()
    with _bar(console) as bar:
        for some in bar.track(_chunks(dataset.size), description=dataset.title):
            images[some], labels[some] = compact(dataset.fetch(some))
    _check_labels(dataset, labels)
    if console is not None and dataset.size:
        what = f"{purpose} examples" if purpose else "examples"
        taken = f"{_megabytes(images.nbytes)}, {time.monotonic() - start:.1f} s"
        console.print(f"{dataset.title}: {dataset.size} {what} decoded, {taken}")
    # They are handed out again and again; nobody may change them on the way.
    images.flags.writeable = labels.flags.writeable = False
    return Examples(images, labels)


def resident(dataset: Dataset, examples: Examples) -> Dataset:
    """The dataset with these examples, decoded ones of it or some of them, as its own.

    An example's number then is its place among them.
    """

    def fetch(indices: Int[np.ndarray, " n"]) -> Examples:
        return jax.tree.map(lambda leaf: leaf[indices], examples)

    return dataclasses.replace(dataset, size=examples.number, fetch=fetch)


def part(dataset: Dataset, numbers: Int[np.ndarray, " n"]) -> Dataset:
    """The dataset with these of its examples only, in this order."""

    def fetch(indices: Int[np.ndarray, " n"]) -> Examples:
        return dataset.fetch(numbers[indices])

    drawn = dataset.random_fetch
    random_fetch = drawn and (
        lambda indices, epoch, seed: drawn(numbers[indices], epoch, seed)
    )
    return dataclasses.replace(
        dataset, size=len(numbers), fetch=fetch, random_fetch=random_fetch
    )


def compact(examples: Examples) -> Examples:
    """The same examples with uint8 images and int32 labels.

    Raises:
      UsageError: if a pixel isn't a whole number from 0 to 255.
    """
    return Examples(_bytes(np.asarray(examples.inputs)), examples.labels.astype(np.int32))


def _bytes(images: np.ndarray) -> UInt8[np.ndarray, "n h w d"]:
    if images.dtype == np.uint8:
        return images
    # What doesn't fit into a byte is undefined when it is converted, so it is asked first.
    fits = (images >= 0) & (images <= 255) & (images == np.round(images))
    if not fits.all():
        raise UsageError(
            f"images must have whole numbers from 0 to 255 as pixels; got "
            f"{images[~fits][0]}: give them before they are scaled"
        )
    return images.astype(np.uint8)


def _check_size(dataset: Dataset, limit: int) -> None:
    if None in dataset.shape:
        raise UsageError(
            f"only images of one size can be kept in memory; those of {dataset.title} have "
            f"shape {dataset.shape}: read them from disk"
        )
    size = dataset.size * math.prod(dataset.shape)
    if size > limit:
        raise UsageError(
            f"{dataset.title} must take at most {_megabytes(limit)} to be kept in memory; "
            f"its {dataset.size} images take {_megabytes(size)}: raise the limit, or read "
            f"them from disk"
        )


def _check_labels(dataset: Dataset, labels: Int[np.ndarray, " n"]) -> None:
    wrong = (labels < 0) | (labels >= dataset.classes)
    if wrong.any():
        raise UsageError(
            f"labels of {dataset.title} must be from 0 to {dataset.classes - 1}; got "
            f"{labels[wrong][0]} at example {wrong.argmax()}: prepare the dataset again"
        )


def _chunks(size: int) -> list[Int[np.ndarray, " n"]]:
    return [np.arange(i, min(i + CHUNK, size)) for i in range(0, size, CHUNK)]


def _bar(console: Console | None) -> Progress:
    """Progress in chunks; it leaves no trace, and is only seen on a terminal."""
    return Progress(
        TextColumn("[bold]decoding {task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn(f"x {CHUNK} examples, left:"),
        TimeLeft(),
        console=console,
        transient=True,
        disable=console is None or not console.is_terminal,
    )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
