"""Batches: whose rows, in which order, from where on; and what is kept in memory."""

import dataclasses
import io
import itertools
import json

import jax
import numpy as np
import pytest
from rich.console import Console

from experiments.data import augment, batches, memory
from experiments.data.batches import Batches
from experiments.data.examples import Dataset, Examples
from experiments.data.normalization import statistics
from experiments.processes import sharded
from experiments.shell.cli import UsageError

# Nothing divides anything: 5 batches of 7, and 2 examples left over.
SIZE, BATCH = 37, 7
STEPS = SIZE // BATCH


@pytest.fixture
def dataset():
    """An example's label and all its pixels say its number."""

    def fetch(indices):
        images = np.broadcast_to(indices[:, None, None, None], (len(indices), 3, 2, 1))
        return Examples(images.astype(np.float32), indices.astype(np.int32))

    return Dataset("made up", "here", (3, 2, 1), SIZE, SIZE, fetch)


def take(batches, n):
    return list(itertools.islice(batches, n))


def numbers(batches, n):
    return np.stack([rows.index for rows in take(batches, n)])


def assert_same(some, others):
    jax.tree.map(np.testing.assert_array_equal, some, others)


def test_rows_are_the_examples_of_their_numbers(dataset):
    for step, rows in enumerate(take(Batches(dataset, BATCH, 0), 2 * STEPS + 1)):
        types = [(leaf.shape, leaf.dtype.name) for leaf in rows]
        assert types == [((BATCH, 3, 2, 1), "uint8")] + [((BATCH,), "int32")] * 3
        assert (rows.labels == rows.index).all()
        assert (rows.inputs == rows.index[:, None, None, None]).all()
        assert (rows.epoch == step // STEPS).all()


def test_an_epoch_has_every_example_once_without_the_remainder(dataset):
    batches = Batches(dataset, BATCH, 0)
    assert batches.steps_per_epoch == STEPS
    left_out = set()
    for _ in range(20):
        seen = numbers(batches, STEPS).ravel()
        assert len(set(seen)) == STEPS * BATCH
        assert set(seen) <= set(range(SIZE))
        left_out |= set(range(SIZE)) - set(seen)
    # Not the same ones in every epoch.
    assert len(left_out) > 10


def test_a_batch_size_that_divides_leaves_nothing_out(dataset):
    seen = numbers(Batches(dataset, SIZE, 1), 3)
    assert (np.sort(seen, axis=1) == np.arange(SIZE)).all()


def test_epochs_and_seeds_have_orders_of_their_own(dataset):
    orders = [
        numbers(Batches(dataset, BATCH, seed), 4 * STEPS).reshape(4, -1)
        for seed in range(4)
    ]
    # Also seed 0 in epoch 1 and seed 1 in epoch 0.
    assert len(np.unique(np.concatenate(orders), axis=0)) == 16
    again = numbers(Batches(dataset, BATCH, 3), 4 * STEPS).reshape(4, -1)
    assert (again == orders[3]).all()


def test_the_order_stays_from_release_to_release(dataset):
    # Else a checkpoint would go on with other examples, and nobody would know.
    found = numbers(Batches(dataset, BATCH, 0), STEPS + 1)
    assert found[0].tolist() == [32, 10, 2, 14, 15, 30, 7]
    assert found[STEPS].tolist() == [22, 7, 31, 27, 35, 20, 25]


@pytest.mark.parametrize("threads", [0, 2])
def test_goes_on_from_every_place_of_two_epochs(dataset, threads):
    whole = take(Batches(dataset, BATCH, 5), 2 * STEPS + 3)
    batches = Batches(dataset, BATCH, 5, threads=threads)
    for step in range(2 * STEPS + 1):
        state = json.loads(json.dumps(batches.get_state()))
        restored = Batches(dataset, BATCH, 5, threads=threads)
        # Forwards, and back.
        for _ in range(2):
            restored.set_state(state)
            assert restored.get_state() == state
            assert_same(take(restored, 3), whole[step : step + 3])
        restored.close()
        next(batches)
    batches.close()


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("interleaved", [False, True])
def test_processes_share_the_same_global_batches(dataset, processes, interleaved):
    size = 12
    whole = take(Batches(dataset, size, 2), 7)
    every = np.arange(size)
    own = np.array_split(every, processes)
    if interleaved:
        own = [every[i::processes] for i in range(processes)]
    parts = [take(Batches(dataset, size, 2, rows), 7) for rows in own]
    for step, batch in enumerate(whole):
        shards = [part[step] for part in parts]
        assert sum(len(shard.index) for shard in shards) == size
        assert len(set(np.concatenate([shard.index for shard in shards]))) == size
        for rows, shard in zip(own, shards, strict=True):
            assert_same(shard, jax.tree.map(lambda leaf, rows=rows: leaf[rows], batch))


def test_goes_on_with_another_number_of_processes(dataset):
    whole = take(Batches(dataset, 8, 0), 6)
    alone = Batches(dataset, 8, 0)
    take(alone, 5)
    half = Batches(dataset, 8, 0, np.arange(4, 8))
    half.set_state(alone.get_state())
    assert_same(next(half), jax.tree.map(lambda leaf: leaf[4:], whole[5]))


def test_a_batch_over_the_devices_is_augmented_the_same_after_a_restart(digits):
    mesh = sharded.data_mesh()
    rows = sharded.local_rows(mesh, 16)
    images = memory.decode(digits).inputs
    normalization = statistics(images)

    @jax.jit
    def pictures(batch):
        keys = augment.example_keys(0, batch.epoch, batch.index)
        how = augment.CROP_AND_FLIP
        return augment.augmented(how, normalization, keys, batch.inputs)

    first, again = Batches(digits, 16, 0, rows), Batches(digits, 16, 0, rows)
    take(first, 2)
    again.set_state(first.get_state())
    one, two = (
        pictures(sharded.global_batch(mesh, 16, next(batches)))
        for batches in (first, again)
    )
    assert len(one.sharding.device_set) == 8
    assert np.array_equal(one, two)


def test_an_error_while_loading_ahead_skips_nothing(dataset):
    broken = {1}

    def fetch(indices):
        if tuple(indices) == second and broken:
            broken.pop()
            raise OSError("disk")
        return dataset.fetch(indices)

    whole = take(Batches(dataset, BATCH, 0), 4)
    second = tuple(whole[1].index)
    batches = Batches(dataclasses.replace(dataset, fetch=fetch), BATCH, 0, threads=2)
    assert_same(next(batches), whole[0])
    with pytest.raises(OSError, match="disk"):
        next(batches)
    # The state is of the last batch that came.
    batches.set_state(batches.get_state())
    assert_same(take(batches, 3), whole[1:])
    batches.close()


def test_evaluation_sees_every_example_once_in_order(dataset):
    found = list(batches.evaluation(dataset, BATCH))
    assert all(len(rows.index) == BATCH for rows in found)
    index = np.concatenate([rows.index for rows in found])
    assert index.tolist() == [*range(SIZE)] + [-1] * (6 * BATCH - SIZE)
    labels = np.concatenate([rows.labels for rows in found])
    assert labels[index >= 0].tolist() == list(range(SIZE))


def test_evaluation_by_several_processes(dataset):
    # The second process has nothing but filling; it still takes part.
    halves = [
        list(batches.evaluation(dataset, 80, r)) for r in np.arange(80).reshape(2, 40)
    ]
    assert halves[0][0].index.tolist() == [*range(SIZE), -1, -1, -1]
    assert halves[1][0].index.tolist() == [-1] * 40


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"batch_size": 38},
            "batch_size must be .* at most the 37 examples of made up; got 38",
        ),
        ({"batch_size": 0}, "batch_size must be at least 1 .* got 0"),
        ({"seed": -1}, "seed must be at least 0; got -1"),
        ({"threads": -2}, "threads must be at least 0; got -2"),
        (
            {"rows": np.array([6, 7])},
            r"rows must be different numbers from 0 to 6, .* \[6, 7\]",
        ),
        ({"rows": np.array([2, 2])}, r"rows must be different numbers .* got \[2, 2\]"),
    ],
)
def test_bad_arguments_are_refused(dataset, wrong, message):
    with pytest.raises(UsageError, match=message):
        Batches(dataset, **{"batch_size": BATCH, "seed": 0, **wrong})


def test_bad_arguments_of_evaluation_are_refused_at_once(dataset):
    with pytest.raises(UsageError, match="batch_size must be at least 1; got 0"):
        batches.evaluation(dataset, 0)
    with pytest.raises(UsageError, match="rows must be"):
        batches.evaluation(dataset, 4, np.array([4]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "the state's 'seed' must be 0, as here; got 1: continue with"),
        ({"batch_size": 8}, "'batch_size' must be 7, as here; got 8"),
        ({"examples": 36}, "'examples' must be 37, as here; got 36"),
        ({"dataset": "MNIST"}, "'dataset' must be 'made up', as here; got 'MNIST'"),
        ({"batches": -1}, "'batches' must be an integer, at least 0; got -1"),
        ({"batches": "3"}, "'batches' must be an integer, at least 0; got '3'"),
    ],
)
def test_the_state_of_other_batches_is_refused(dataset, change, message):
    batches = Batches(dataset, BATCH, 0)
    before = batches.get_state()
    with pytest.raises(UsageError, match=message):
        batches.set_state({**before, **change})
    assert batches.get_state() == before


def test_digits_in_memory_are_the_digits(digits):
    decoded = memory.decode(digits)
    fetched = digits.fetch(np.arange(digits.size))
    assert (decoded.inputs.dtype, decoded.labels.dtype) == (np.uint8, np.int32)
    assert (decoded.inputs == fetched.inputs).all()
    assert (decoded.labels == fetched.labels).all()
    with pytest.raises(ValueError, match="read-only"):
        decoded.inputs[0] = 0


def test_batches_from_memory_are_those_from_disk(digits):
    kept = memory.resident(digits, memory.decode(digits))
    assert_same(take(Batches(kept, 500, 0), 4), take(Batches(digits, 500, 0), 4))


def test_some_examples_in_memory_are_a_dataset(dataset):
    decoded = memory.decode(dataset)
    some = memory.resident(dataset, Examples(*(leaf[10:20] for leaf in decoded)))
    seen = take(Batches(some, 5, 0), 2)
    assert sorted(np.concatenate([rows.index for rows in seen])) == list(range(10))
    assert all((rows.labels == rows.index + 10).all() for rows in seen)


def test_decoding_says_how_far_it_is(digits):
    plain, live = io.StringIO(), io.StringIO()
    memory.decode(digits, Console(file=plain, width=100))
    memory.decode(digits, Console(file=live, width=100, force_terminal=True))
    assert "digits: 1797 examples decoded, 0.1 MB, " in plain.getvalue()
    assert "\n" not in plain.getvalue().strip()
    assert "decoding digits" in live.getvalue()


def test_what_is_too_large_is_refused_before_decoding(dataset):
    def fetch(indices):
        raise AssertionError(indices)

    large = dataclasses.replace(dataset, fetch=fetch, size=10**7)
    with pytest.raises(
        UsageError,
        match=r"made up must take at most 1\.0 MB .* 10000000 images take 60\.0 MB: raise",
    ):
        memory.decode(large, limit=10**6)
    memory.decode(dataset, limit=SIZE * 6)
    with pytest.raises(UsageError, match="must take at most"):
        memory.decode(dataset, limit=SIZE * 6 - 1)
    ragged = dataclasses.replace(large, shape=(None, None, 3))
    with pytest.raises(UsageError, match="images of one size"):
        memory.decode(ragged)


@pytest.mark.parametrize("pixel", [-1.0, 256.0, 0.5, np.nan])
def test_pixels_that_are_no_bytes_are_refused(pixel):
    examples = Examples(np.full((1, 2, 2, 1), pixel, np.float32), np.array([0]))
    with pytest.raises(UsageError, match=f"whole numbers from 0 to 255 .* got {pixel}"):
        memory.compact(examples)


def test_labels_of_no_class_are_refused(dataset):
    fewer = dataclasses.replace(dataset, classes=30)
    with pytest.raises(UsageError, match="from 0 to 29; got 30 at example 30: prepare"):
        memory.decode(fewer)
