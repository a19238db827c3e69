"""Training: side by side or in turn, alone or with others, a replica is the same."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hand_chosen import values_of

from experiments.methods import METHODS
from experiments.training.replicas import (
    batch_rows,
    one_run,
    same_but_seeds,
    train,
    trainer,
)
from experiments.training.splits import training_split


@pytest.fixture(scope="module")
def examples(digits, protocol):
    return training_split(digits, protocol, 0).train


def flat(params, replica):
    return np.concatenate([leaf[replica].ravel() for leaf in jax.tree.leaves(params)])


@pytest.mark.slow
def test_a_replica_does_not_depend_on_its_neighbours(protocol, model, examples):
    # A method that draws random numbers: each replica must draw its own.
    method = "random_sam"
    runs = [
        one_run(seed, values_of(method) | {"learning_rate": rate})
        for seed, rate in [(0, 0.1), (3, 0.02), (7, 0.3)]
    ]
    training = trainer(METHODS[method], model, protocol)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *runs)
    together = train(training, protocol, examples, stacked)
    in_turn = replace(protocol, side_by_side=False)
    alone = train(training, in_turn, examples, stacked)
    for replica in range(3):
        np.testing.assert_allclose(
            flat(together, replica), flat(alone, replica), rtol=1e-4, atol=1e-6
        )
    assert not np.allclose(flat(together, 0), flat(together, 1), atol=1e-2)


def test_progress_is_told_of_every_epoch(protocol, model, examples):
    def advance(replicas, runs, rows, examples):
        return replicas

    training = trainer(METHODS["sgd"], model, protocol)._replace(advance=advance)
    runs = same_but_seeds([0, 1, 2], values_of("sgd"))
    seen = []
    train(training, protocol, examples, runs, lambda n, _: seen.append(n))
    assert seen == [3, 3]
    seen.clear()
    in_turn = replace(protocol, side_by_side=False)
    train(training, in_turn, examples, runs, lambda n, _: seen.append(n))
    assert seen == [1] * 6


def test_batches_are_a_shuffle_without_repeats():
    rows = np.asarray(batch_rows(jnp.array([4, 5]), 0, 70, 33))
    assert rows.shape == (2, 2, 33)
    for seed in rows:
        assert len(set(seed.ravel().tolist())) == 66
        assert seed.max() < 70
    again = batch_rows(jnp.array([4, 5]), 0, 70, 33)
    np.testing.assert_array_equal(rows, again)
    assert not np.array_equal(rows, batch_rows(jnp.array([4, 5]), 1, 70, 33))
    assert not np.array_equal(rows[0], rows[1])


def test_methods_start_from_the_same_weights(protocol, model):
    start = {}
    for name in ("sgd", "random_sam"):
        runs = same_but_seeds([2], values_of(name))
        start[name] = trainer(METHODS[name], model, protocol).init(runs).params
    jax.tree.map(np.testing.assert_array_equal, start["sgd"], start["random_sam"])


def test_training_works_and_hyperparameters_need_no_compilation(digits, protocol, model):
    longer = protocol.changed(train_examples=384, batch_size=128, epochs=30)
    examples = training_split(digits, longer, 0).train
    training = trainer(METHODS["k_sam"], model, longer)
    for rate in (0.1, 0.2):
        values = values_of("k_sam") | {"learning_rate": rate}
        params = train(training, longer, examples, same_but_seeds([0], values))
        alone = jax.tree.map(lambda leaf: leaf[0], params)
        assert model.losses(alone, examples).mean() < 0.3
    assert training.advance._cache_size() == 1  # pyright: ignore
