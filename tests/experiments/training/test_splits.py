"""Splits: sizes, no overlap, the same every time; label noise: exactly so much."""

from dataclasses import replace

import numpy as np
import pytest

from experiments.configs.compare import DIGITS, PROTOCOLS
from experiments.data import batches, catalogue
from experiments.data.augment import NOTHING
from experiments.data.examples import Dataset, Examples
from experiments.data.normalization import Normalization
from experiments.training.harness import inputs
from experiments.training.splits import draw_test, mislabel, training_split


@pytest.fixture
def numbered():
    """A dataset whose images say which example they are, in two bytes."""

    def fetch(i):
        images = np.stack([i // 256, i % 256], axis=1).astype(np.float32)
        return Examples(images[:, None, :, None], np.asarray(i % 10, np.int32))

    return Dataset(
        title="numbered",
        source="here",
        shape=(1, 2, 1),
        classes=10,
        size=1797,
        fetch=fetch,
        normalization=Normalization((0.0,), (1.0,), scale=1),
    )


def who(examples):
    high, low = examples.inputs[:, 0, :, 0].astype(int).T
    return (256 * high + low).tolist()


@pytest.mark.parametrize("split", [0, 7])
def test_parts_are_disjoint_and_cover_everything(numbered, split):
    train, validation = training_split(numbered, DIGITS, split)
    test = draw_test(numbered, DIGITS, split)
    assert [x.number for x in (train, validation, test)] == [384, 516, 897]
    assert sorted(who(train) + who(validation) + who(test)) == list(range(1797))


def test_a_split_is_the_same_every_time_and_unlike_others(numbered):
    first, again, other = (who(training_split(numbered, DIGITS, i)[0]) for i in (3, 3, 4))
    assert first == again
    # Two random thirds of a fifth share a fifth, not more.
    assert len(set(first) & set(other)) < 150


def test_an_official_test_set_is_used_as_it_is(numbered):
    official = Examples(np.full((5, 1, 2, 1), 3.0, np.float32), np.arange(5))
    dataset = replace(
        numbered,
        official_test=lambda: official,
        normalization=Normalization((1.0,), (4.0,), scale=1),
    )
    test = draw_test(dataset, DIGITS, 2)
    np.testing.assert_array_equal(test.inputs, np.full((5, 1, 2, 1), 0.5))
    np.testing.assert_array_equal(test.labels, np.arange(5))


def test_pixels_are_scaled(digits):
    train, validation = training_split(digits, DIGITS, 0)
    for part in (train, validation, draw_test(digits, DIGITS, 0)):
        assert part.inputs.dtype == np.float32
        assert part.inputs.min() == 0
        assert part.inputs.max() == 1


def test_without_a_scaling_of_their_own_the_training_images_have_it(numbered):
    dataset = replace(numbered, normalization=None)
    train, validation = training_split(dataset, DIGITS, 4)
    assert train.inputs.mean() == pytest.approx(0, abs=1e-6)
    assert train.inputs.std() == pytest.approx(1)
    raw = dataset.fetch(np.arange(1797)).inputs
    mean, std = train_statistics(numbered)
    for part in (validation, draw_test(dataset, DIGITS, 4)):
        pixels = np.round(part.inputs * std + mean)
        assert set(np.unique(pixels)) <= set(np.unique(raw))


def train_statistics(numbered):
    pixels = training_split(numbered, DIGITS, 4).train.inputs
    return pixels.mean(), pixels.std()


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_the_other_programs_take_the_same_examples_and_pixels(name, digits, monkeypatch):
    """Split 0 of a comparison is what `experiments.train` trains on, bit by bit."""
    protocol, named = PROTOCOLS[name], catalogue.IN_MEMORY[name]
    if name == "mnist":
        made = bright(named.normalization)
        monkeypatch.setattr(type(named), "open", lambda self, data_dir, split="train": made)
    mine = training_split(catalogue.load(name), protocol, 0)
    found = inputs.load(protocol.experiment, None, None)
    examples = {"train": found.train, "validation": found.judged["validation"]}
    prepared = named.preparation(found.normalization, NOTHING, 0.0)
    for part, theirs in zip(mine, examples.values(), strict=True):
        (rows,) = batches.evaluation(theirs, theirs.size)
        np.testing.assert_array_equal(part.labels, rows.labels)
        np.testing.assert_array_equal(part.inputs, prepared.inputs(rows))


def bright(normalization):
    """Like MNIST, but drawn at random."""
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (2100, 5, 4, 1)).astype(np.float32)
    labels = rng.integers(0, 10, 2100).astype(np.int32)
    return Dataset(
        title="bright",
        source="here",
        shape=(5, 4, 1),
        classes=10,
        size=2100,
        fetch=lambda i: Examples(images[i], labels[i]),
        normalization=normalization,
    )


@pytest.mark.parametrize(("fraction", "wrong"), [(0.0, 0), (0.2, 77), (0.5, 192)])
def test_noise_replaces_exactly_that_many_training_labels(numbered, fraction, wrong):
    clean = training_split(numbered, DIGITS, 5)
    noisy = training_split(numbered, DIGITS, 5, fraction)
    assert who(noisy.train) == who(clean.train)
    assert np.sum(noisy.train.labels != clean.train.labels) == wrong
    assert noisy.train.labels.dtype == clean.train.labels.dtype
    np.testing.assert_array_equal(noisy.validation.labels, clean.validation.labels)


def test_noise_reaches_every_other_class_about_equally():
    labels = np.full(9000, 4, np.int32)
    noisy = mislabel(labels, 1 - 1e-9, 10, split=0)
    counts = np.bincount(noisy, minlength=10)
    assert counts[4] == 0
    # 1000 each on average; five standard deviations.
    assert np.all(np.abs(np.delete(counts, 4) - 1000) < 5 * np.sqrt(1000))
    np.testing.assert_array_equal(labels, 4)
