"""Splits: sizes, no overlap, the same every time; label noise: exactly so much."""

from dataclasses import replace

import numpy as np
import pytest

from experiments.configs.compare import DIGITS
from experiments.data.examples import Dataset, Examples
from experiments.training.splits import draw_test, mislabel, training_split


@pytest.fixture
def numbered():
    """A dataset whose images say which example they are."""
    return Dataset(
        title="numbered",
        source="here",
        shape=(1, 1, 1),
        classes=10,
        size=1797,
        fetch=lambda i: Examples(
            i.astype(np.float32)[:, None, None, None], np.asarray(i % 10, np.int32)
        ),
    )


PROTOCOL = replace(DIGITS, scale=1.0)


def who(examples):
    return examples.inputs.ravel().astype(int).tolist()


@pytest.mark.parametrize("split", [0, 7])
def test_parts_are_disjoint_and_cover_everything(numbered, split):
    train, validation = training_split(numbered, PROTOCOL, split)
    test = draw_test(numbered, PROTOCOL, split)
    assert [x.number for x in (train, validation, test)] == [384, 516, 897]
    assert sorted(who(train) + who(validation) + who(test)) == list(range(1797))


def test_a_split_is_the_same_every_time_and_unlike_others(numbered):
    first, again, other = (who(training_split(numbered, PROTOCOL, i)[0]) for i in (3, 3, 4))
    assert first == again
    # Two random thirds of a fifth share a fifth, not more.
    assert len(set(first) & set(other)) < 150


def test_an_official_test_set_is_used_as_it_is(numbered):
    official = Examples(np.full((5, 1, 1, 1), 3.0, np.float32), np.arange(5))
    dataset = replace(numbered, official_test=lambda: official)
    test = draw_test(dataset, replace(PROTOCOL, shift=1.0, scale=4.0), 2)
    np.testing.assert_array_equal(test.inputs, np.full((5, 1, 1, 1), 0.5))
    np.testing.assert_array_equal(test.labels, np.arange(5))


def test_pixels_are_scaled(digits):
    train, validation = training_split(digits, DIGITS, 0)
    for part in (train, validation, draw_test(digits, DIGITS, 0)):
        assert part.inputs.dtype == np.float32
        assert part.inputs.min() == 0
        assert part.inputs.max() == 1


@pytest.mark.parametrize(("fraction", "wrong"), [(0.0, 0), (0.2, 77), (0.5, 192)])
def test_noise_replaces_exactly_that_many_training_labels(numbered, fraction, wrong):
    clean = training_split(numbered, PROTOCOL, 5)
    noisy = training_split(numbered, PROTOCOL, 5, fraction)
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
