"""GLUE's nine tasks (Wang et al., 2018), read through TFDS without TensorFlow.

The labels of the test splits aren't public, nor those of the diagnostic set (AX), which is
nothing but a test split: the first can't be judged here, and the second is left out.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from experiments.data.prepared import data_source
from experiments.shell.cli import UsageError, one_of

UNKNOWN = -1  # TFDS's label where there is none


@dataclass(frozen=True)
class Task:
    """What a task asks.

    Attributes:
      title: as written in tables and plots.
      texts: TFDS's names of the one or two texts.
      classes: number of classes; 1: the label is a number to be predicted.
      metrics: names in `experiments.judging.scores`; the first is the one that BERT's paper
        (Devlin et al., 2019, table 1) quotes, which leaves WNLI out.
      evaluation: splits to judge models on, the official one first.
    """

    title: str
    texts: tuple[str] | tuple[str, str]
    classes: int
    metrics: tuple[str, ...] = ("accuracy",)
    evaluation: tuple[str, ...] = ("validation",)


_SENTENCES = ("sentence1", "sentence2")
_F1 = ("f1", "accuracy")
_MNLI = ("validation_matched", "validation_mismatched")

TASKS = {
    "glue/cola": Task("CoLA", ("sentence",), 2, ("matthews",)),
    "glue/sst2": Task("SST-2", ("sentence",), 2),
    "glue/mrpc": Task("MRPC", _SENTENCES, 2, _F1),
    "glue/qqp": Task("QQP", ("question1", "question2"), 2, _F1),
    "glue/stsb": Task("STS-B", _SENTENCES, 1, ("spearman", "pearson")),
    "glue/mnli": Task("MNLI", ("premise", "hypothesis"), 3, evaluation=_MNLI),
    "glue/qnli": Task("QNLI", ("question", "sentence"), 2),
    "glue/rte": Task("RTE", _SENTENCES, 2),
    "glue/wnli": Task("WNLI", _SENTENCES, 2),
}


class RawTexts(NamedTuple):
    """A split of a task.

    Attributes:
      title, classes, metrics: as the `Task` has them.
      source: where the examples come from, with the version.
      texts: one or two strings of each example.
      labels: (N,) int32, or float32 where `classes` is 1.
    """

    title: str
    source: str
    texts: list[tuple[str, ...]]
    labels: Int[np.ndarray, " n"] | Float[np.ndarray, " n"]
    classes: int
    metrics: tuple[str, ...]


def load(name: str, data_dir: Path | None, split: str) -> RawTexts:
    """Reads a split.

    Args:
      name: one of `TASKS`.
      data_dir: where TFDS keeps its datasets; None: its default.
      split: "train", or one of the task's `evaluation`.

    Raises:
      UsageError: if there is no such task, it isn't prepared in `data_dir`, or the
        split's labels aren't public.
    """
    task = TASKS[one_of("dataset", name, TASKS)]
    # A folder may lack the test split, and then TFDS would call all of it unprepared.
    if split.startswith("test"):
        raise _not_public(name, split)
    source = data_source(name, split, data_dir)
    rows = source.rows(range(source.size))
    labels = [row["label"] for row in rows]
    if UNKNOWN in labels:
        raise _not_public(name, split)
    return RawTexts(
        title=task.title,
        source=f"tensorflow_datasets {source.dataset_info.full_name}",
        texts=[tuple(row[text].decode() for text in task.texts) for row in rows],
        labels=np.asarray(labels, np.int32 if task.classes > 1 else np.float32),
        classes=task.classes,
        metrics=task.metrics,
    )


def _not_public(name: str, split: str) -> UsageError:
    instead = TASKS[name].evaluation[0]
    return UsageError(
        f"the labels of {name}'s split {split!r} are not public, only GLUE's server can "
        f"judge it; use the split {instead!r} instead"
    )
