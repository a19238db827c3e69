"""GLUE's texts as tokens, by a vocabulary that is learnt or read."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
from jaxtyping import Int
from tokenizers import Tokenizer

from experiments.data import glue, memory, wordpiece
from experiments.data.augment import Augmentation
from experiments.data.drawn import drawn
from experiments.data.examples import Dataset, Examples, Kind
from experiments.data.glue import RawTexts
from experiments.data.named import WORTH_A_LINE, Inputs, Named, Wanted, together
from experiments.data.normalization import Normalization
from experiments.data.preparation import Preparation, of_texts

# Its test labels aren't public, so that everybody quotes these.
JUDGED_ON = "GLUE validation"


def load(name: str, data_dir: Path | None) -> tuple[Dataset, Mapping[str, Dataset]]:
    """The training texts of a task; and "test", those that results are quoted on.

    What GLUE has besides is there by its own name: MNLI's "validation_mismatched".

    Raises:
      UsageError: if there is no such task, or it isn't prepared in `data_dir`.
    """
    first, *others = glue.TASKS[name].evaluation
    splits = {"test": first, **{other: other for other in others}}
    return _raw(glue.load(name, data_dir, "train")), {
        purpose: _raw(glue.load(name, data_dir, split)) for purpose, split in splits.items()
    }


def _raw(found: RawTexts) -> Dataset:
    """The texts as they are: each a tuple of strings."""
    texts = np.empty(len(found.texts), object)
    texts[:] = found.texts

    def fetch(indices: Int[np.ndarray, " n"]) -> Examples:
        return Examples(texts[indices], found.labels[indices])

    return Dataset(
        title=found.title,
        source=found.source,
        shape=(),
        classes=found.classes,
        size=len(texts),
        fetch=fetch,
        metrics=found.metrics,
        judged_on=JUDGED_ON,
    )


@dataclasses.dataclass(frozen=True)
class Texts(Named):
    """A task whose examples are one or two texts."""

    things: ClassVar[str] = "texts"

    @property
    def least_length(self) -> int:
        """Room for the tokens around the texts, and for one of each."""
        return 1 + 2 * len(glue.TASKS[self.name].texts)

    def preparation(
        self,
        normalization: Normalization | None,
        augmentation: Augmentation,
        dropout: float,
    ) -> Preparation:
        """See `Named`."""
        del normalization, augmentation
        return of_texts(dropout)

    def inputs(self, wanted: Wanted) -> Inputs:
        """See `Named`."""
        return in_tokens(self.name, wanted)


def of_task(name: str, kind: Kind | None = None) -> Texts:
    """A task of GLUE as a data set."""
    task = glue.TASKS[name]
    return Texts(name, task.title, task.metrics, kind, task.classes == 1)


@functools.lru_cache(maxsize=4)
def in_tokens(name: str, wanted: Wanted) -> Inputs:
    """All texts of a task as tokens, in memory."""
    start = time.monotonic()
    whole, official = load(name, wanted.data_dir)
    numbers = drawn(whole, wanted.train, wanted.held)
    train = memory.part(whole, numbers.train)
    reader = Reader(wanted.length, wanted.vocabulary, wanted.pretrained)
    encode = reader.encoder(train)
    parts = {"validation": memory.part(whole, numbers.validation), **official}
    judged = {purpose: encode(part) for purpose, part in parts.items()}
    found = together(encode(train), judged, None)
    if wanted.console is not None and train.size > WORTH_A_LINE:
        taken = f"{time.monotonic() - start:.1f} s"
        said = f"{whole.title}: {train.size} training texts in tokens, {taken}"
        wanted.console.print(said)
    return found


class Reader(NamedTuple):
    """How texts become tokens.

    Attributes:
      length: tokens of a text; what is longer is cut.
      vocabulary: how many tokens to learn from the training texts.
      pretrained: folder of a checkpoint that has a vocabulary, to be taken instead.
    """

    length: int
    vocabulary: int
    pretrained: str | None

    def encoder(self, train: Dataset) -> Callable[[Dataset], Dataset]:
        """What makes tokens of raw texts, all in memory.

        Args:
          train: raw texts that a vocabulary may be learnt from.

        Raises:
          UsageError: if the checkpoint has no vocabulary, or the length is too small.
        """
        if self.pretrained is None:
            texts = (text for example in _all(train).inputs for text in example)
            tokenizer = wordpiece.trained(texts, self.vocabulary)
            origin = "learnt from the training texts"
        else:
            tokenizer = wordpiece.read(Path(self.pretrained))
            origin = "of the checkpoint"
        words = (
            f"WordPiece with {tokenizer.get_vocab_size():,} tokens {origin} "
            f"({wordpiece.digest(tokenizer)})"
        )
        return lambda part: _encoded(part, tokenizer, self.length, words)


def _encoded(part: Dataset, tokenizer: Tokenizer, length: int, words: str) -> Dataset:
    texts, labels = _all(part)
    tokens = wordpiece.encode(tokenizer, texts, length)
    about = dataclasses.replace(
        part,
        source=f"{part.source}; {words}",
        shape=(length,),
        vocabulary=tokenizer.get_vocab_size(),
    )
    return memory.resident(about, Examples(tokens, labels))


def _all(part: Dataset) -> Examples:
    return part.fetch(np.arange(part.size))
