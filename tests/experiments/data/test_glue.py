"""GLUE's tasks: the table against TFDS's own, and made-up datasets of every task."""

import numpy as np
import pytest
import tiny_tfds
from tensorflow_datasets.text.glue import Glue

from experiments.data import glue
from experiments.judging.scores import SCORES
from experiments.shell.cli import UsageError

CONFIGS = {f"glue/{config.name}": config for config in Glue.BUILDER_CONFIGS}
# As GLUE's paper (Wang et al., 2018, table 1) has them; of the two metrics of a task the
# one that table 1 of BERT's paper quotes stands first.
METRICS = {
    "glue/cola": ("matthews",),
    "glue/sst2": ("accuracy",),
    "glue/mrpc": ("f1", "accuracy"),
    "glue/qqp": ("f1", "accuracy"),
    "glue/stsb": ("spearman", "pearson"),
    "glue/mnli": ("accuracy",),
    "glue/qnli": ("accuracy",),
    "glue/rte": ("accuracy",),
    "glue/wnli": ("accuracy",),
}
# What is in the texts and labels: made up, with accents and an empty text.
WORDS = ("Déjà vu, isn't it?", "", "a [SEP] b", "naïve — 東京", "last")
NUMBERS = (3.25, 0.0, 5.0, 2.5, 1.75)


def _features(config):
    labels = config.label_classes
    return {
        **{name: tiny_tfds.text() for name in config.text_features},
        "label": tiny_tfds.class_label(len(labels))
        if labels
        else tiny_tfds.scalar("float32"),
        "idx": tiny_tfds.scalar("int32"),
    }


def _examples(config, count, label=None):
    """Label 0, 1, ... in turn, and in the second text the first's in capitals."""
    classes = config.label_classes
    labels = [i % len(classes) if classes else NUMBERS[i] for i in range(count)]
    if label is not None:
        labels = [type(one)(label) for one in labels]
    return [
        {
            **{
                name: WORDS[i].upper() if second else WORDS[i]
                for second, name in enumerate(config.text_features)
            },
            "label": labels[i],
            "idx": i,
        }
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """All tasks, five examples to train on, three of each evaluation split."""
    folder = tmp_path_factory.mktemp("tfds")
    for name, task in glue.TASKS.items():
        config = CONFIGS[name]
        splits = {split: _examples(config, 3) for split in task.evaluation}
        splits |= {"train": _examples(config, 5), "blind": _examples(config, 2, -1)}
        tiny_tfds.write(folder, name, "2.0.0", _features(config), splits)
    return folder


def test_every_task_is_there():
    # Those of MNLI's two halves have no training examples, and AX no labels.
    without = {"glue/mnli_matched", "glue/mnli_mismatched", "glue/ax"}
    assert set(glue.TASKS) == set(CONFIGS) - without
    assert {name: task.metrics for name, task in glue.TASKS.items()} == METRICS
    assert all(name in SCORES for names in METRICS.values() for name in names)


@pytest.mark.parametrize("name", glue.TASKS)
def test_the_table_is_tfdss(name):
    task, config = glue.TASKS[name], CONFIGS[name]
    assert task.texts == tuple(config.text_features)
    assert task.classes == len(config.label_classes or ["a number"])


@pytest.mark.parametrize("name", ["glue/mrpc", "glue/qqp"])
def test_class_1_is_the_one_of_f1(name):
    classes = CONFIGS[name].label_classes
    assert classes in (["not_equivalent", "equivalent"], ["not_duplicate", "duplicate"])


@pytest.mark.parametrize("name", glue.TASKS)
def test_examples_are_what_was_written(folder, name):
    task = glue.TASKS[name]
    raw = glue.load(name, folder, "train")
    assert raw.texts == [(word, word.upper())[: len(task.texts)] for word in WORDS]
    assert (raw.title, raw.classes, raw.metrics) == (
        task.title,
        task.classes,
        METRICS[name],
    )
    assert raw.source == f"tensorflow_datasets {name}/2.0.0"


@pytest.mark.parametrize(
    ("name", "labels", "dtype"),
    [
        ("glue/cola", [0, 1, 0, 1, 0], np.int32),
        ("glue/mnli", [0, 1, 2, 0, 1], np.int32),
        ("glue/stsb", [3.25, 0.0, 5.0, 2.5, 1.75], np.float32),
    ],
)
def test_labels_are_classes_or_numbers(folder, name, labels, dtype):
    found = glue.load(name, folder, "train").labels
    assert (found.tolist(), found.dtype) == (labels, dtype)


@pytest.mark.parametrize("name", glue.TASKS)
def test_each_evaluation_split_is_there(folder, name):
    for split in glue.TASKS[name].evaluation:
        assert len(glue.load(name, folder, split).texts) == 3


def test_mnli_is_judged_on_what_matches_first():
    expected = ("validation_matched", "validation_mismatched")
    assert glue.TASKS["glue/mnli"].evaluation == expected
    others = {task.evaluation for name, task in glue.TASKS.items() if "mnli" not in name}
    assert others == {("validation",)}


@pytest.mark.parametrize("split", ["test", "blind"])
@pytest.mark.parametrize("name", ["glue/sst2", "glue/stsb"])
def test_labels_that_are_not_public(folder, name, split):
    # "test" isn't in the folder at all, "blind" is, with labels of -1.
    with pytest.raises(UsageError, match=r"not public.*use the split 'validation'"):
        glue.load(name, folder, split)


def test_mnlis_test_splits_are_not_public_either(folder):
    with pytest.raises(UsageError, match=r"'test_mismatched' are not.*validation_matched"):
        glue.load("glue/mnli", folder, "test_mismatched")


def test_a_task_that_is_not_prepared(tmp_path):
    with pytest.raises(
        UsageError, match=r"'glue/rte' is not prepared.*tfds build glue/rte"
    ):
        glue.load("glue/rte", tmp_path, "train")


@pytest.mark.parametrize("name", ["glue/ax", "glue/sst3", "sst2"])
def test_a_task_that_is_not_there(tmp_path, name):
    with pytest.raises(UsageError, match=f"unknown dataset '{name}'.*glue/cola"):
        glue.load(name, tmp_path, "train")
