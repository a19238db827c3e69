"""Choosing by remembered losses: what is written down, when, and that it costs nothing.

Trajectories are compared with NumPy's in test_oracles; checkpoints, scans, donation and
all else of the contract are in test_contract, row "remembered".
"""

import functools
import math
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import (
    batched,
    initial,
    quick_jit,
    updater,
)

import ksam_jax

SIZE, N = 9, 4
NAN, INF = math.nan, math.inf
NOT_USED = float(np.finfo(np.float32).max)
RHO = 0.5

# Example i has the loss value_i * |w|^2 / 2, with four weights: 2 value_i at w = 1.


def example_loss(w, example):
    return example["value"] * (w @ w) / 2


def example_loss_with_aux(w, example):
    return example_loss(w, example), example["value"]


loss_fn = batched(example_loss)
ONES = jnp.ones(N)


def batch(values, numbers):
    return {"value": jnp.asarray(values, jnp.float32), "index": jnp.asarray(numbers)}


def k_sam(k=2, index: Any = "index"):
    hardest = ksam_jax.highest_remembered_loss(k, SIZE, index, mean_over="chosen")
    climb = ksam_jax.scale_to_radius(RHO)
    return ksam_jax.sharpness_aware(climb, ascent=hardest, descent=hardest)


def momentum():
    return ksam_jax.sharpness_aware(
        ksam_jax.scale_to_radius(RHO),
        ascent=ksam_jax.past_descent(0.0),
        descent=ksam_jax.highest_remembered_loss(2, SIZE),
    )


@functools.cache
def compiled(tx, has_aux=False):
    loss = batched(example_loss_with_aux) if has_aux else loss_fn
    return quick_jit(updater(tx, loss, has_aux=has_aux))


def held(state):
    """The memory, wherever it is."""
    losses = getattr(state.descent, "losses", None)
    return (state.ascent.losses if losses is None else losses).tolist()


def after(tx, *batches, has_aux=False, state=None):
    """The memory and the state after some steps at w = 1."""
    state = initial(tx, ONES) if state is None else state
    for step in batches:
        _, state = compiled(tx, has_aux)(state, ONES, step)
        _, state = ksam_jax.take_aux(state)
    return held(state), state


K_SAM, MOMENTUM = k_sam(), momentum()


def memory(**known):
    """A memory in which nothing is known but what is given: `_3=2.0` for example 3."""
    return [known.get(f"_{i}", NOT_USED) for i in range(SIZE)]


@pytest.mark.parametrize("has_aux", [False, True])
def test_only_the_used_examples_are_remembered_with_their_clean_losses(has_aux):
    first = batch([1.0, 5.0, 3.0, 4.0], [7, 2, 0, 5])
    found, state = after(K_SAM, first, has_aux=has_aux)
    # All unseen: the first two rows. Their losses at w = 1 are twice their values.
    assert found == memory(_7=2.0, _2=10.0)
    assert not jax.tree.leaves(state.descent)
    assert state.ascent.losses.dtype == jnp.float32
    found, state = after(K_SAM, first, has_aux=has_aux, state=state)
    assert found == memory(_7=2.0, _2=10.0, _0=6.0, _5=8.0)
    # Now all are known: the highest remembered ones are 2 and 5, whatever they are now.
    third = batch([9.0, 0.5, 9.0, 0.25], [7, 2, 0, 5])
    found, _ = after(K_SAM, third, has_aux=has_aux, state=state)
    assert found == memory(_7=2.0, _2=1.0, _0=6.0, _5=0.5)


@pytest.mark.parametrize("has_aux", [False, True])
def test_as_the_descent_it_remembers_the_losses_at_the_perturbed_weights(has_aux):
    first = batch([1.0, 5.0, 3.0, 4.0], [7, 2, 0, 5])
    found, state = after(MOMENTUM, first, has_aux=has_aux)
    assert found == memory(_7=2.0, _2=10.0)  # no perturbation in the first step
    found, _ = after(MOMENTUM, first, has_aux=has_aux, state=state)
    # eps = -0.25 everywhere: |w|^2 is 9/16 of what it was.
    assert found == pytest.approx(memory(_7=2.0, _2=10.0, _0=3.375, _5=4.5))


def test_as_ascent_and_as_descent_two_selections_have_two_memories():
    one, other = (ksam_jax.highest_remembered_loss(k, SIZE) for k in (1, 2))
    climb = ksam_jax.scale_to_radius(RHO)
    tx = ksam_jax.sharpness_aware(climb, ascent=one, descent=other)
    _, state = after(tx, batch([1.0, 5.0, 3.0, 4.0], [7, 2, 0, 5]))
    assert state.ascent.losses.tolist() == memory(_7=2.0)
    factor = (1 + RHO / 2) ** 2
    expected = memory(_7=2.0 * factor, _2=10.0 * factor)
    assert state.descent.losses.tolist() == pytest.approx(expected)


def test_ties_go_to_the_lowest_row_of_the_batch():
    same = batch([1.5] * N, [8, 1, 6, 3])
    found, state = after(K_SAM, same)
    assert found == memory(_8=3.0, _1=3.0)
    _, state = after(K_SAM, same, state=state)
    found, _ = after(K_SAM, batch([0.5] * N, [3, 6, 1, 8]), state=state)
    assert found == memory(_8=3.0, _1=3.0, _6=1.0, _3=1.0)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("tx", [K_SAM, MOMENTUM], ids=["k_sam", "momentum"])
def test_a_loss_that_is_not_finite_is_remembered_as_nan_and_ranks_last(tx, bad):
    found, state = after(tx, batch([bad, 1.0, 3.0, 4.0], [0, 1, 2, 3]))
    np.testing.assert_array_equal(found, memory(_0=NAN, _1=2.0))
    # Against three known ones, of which two are taken, and the bad one isn't.
    _, state = after(tx, batch([3.0, 4.0, 1.0, 1.0], [2, 3, 0, 1]), state=state)
    before = held(state)
    found, state = after(tx, batch([-1.0, -2.0, -3.0, 9.0], [1, 2, 3, 0]), state=state)
    assert math.isnan(found[0])
    changed = [i for i in range(SIZE) if i and found[i] != before[i]]
    assert changed == [2, 3]


def test_rows_that_only_fill_up_are_never_used_or_written():
    tx = k_sam(k=3)
    # Examples 0 and 1 turn out bad, then they meet two new ones.
    _, state = after(tx, batch([NAN, NAN, 1.0, 1.0], [0, 1, 2, 3]))
    mixed = batch([5.0, 2.0, 7.0, 4.0], [0, 5, 1, 3])
    updates, state = compiled(tx)(state, ONES, mixed)
    expected = memory(_0=NAN, _1=NAN, _2=2.0, _5=4.0, _3=8.0)
    np.testing.assert_array_equal(held(state), expected)
    # The mean over the two, at weights that are 5/4 of what they were.
    np.testing.assert_allclose(updates, 3.0 * 1.25, rtol=1e-6)
    assert ksam_jax.get_info(state).known.sharpness


@pytest.mark.parametrize("tx", [K_SAM, MOMENTUM], ids=["k_sam", "momentum"])
@pytest.mark.parametrize("wrong", [-1, SIZE, -SIZE, 2**31 - 1])
def test_a_number_out_of_range_makes_the_gradient_nan_and_is_never_stored(tx, wrong):
    everyone = batch([1.0, 2.0, 3.0, 4.0], [0, 1, 2, 3])
    _, state = after(tx, everyone, everyone)
    before = held(state)
    odd = batch([5.0, 6.0, 7.0, 8.0], [3, wrong, 0, 2])
    updates, state = compiled(tx)(state, ONES, odd)
    assert np.isnan(updates).all()
    assert held(state) == before


def test_a_step_without_a_finite_loss_is_not_remembered():
    _, state = after(K_SAM, batch([1.0, 2.0, 3.0, 4.0], [0, 1, 2, 3]))
    before = held(state)
    found, state = after(K_SAM, batch([INF, NAN, 3.0, 4.0], [7, 5, 2, 3]), state=state)
    assert found == before
    found, _ = after(K_SAM, batch([2.0, 1.0, 3.0, 4.0], [7, 5, 2, 3]), state=state)
    assert found == memory(_0=2.0, _1=4.0, _7=4.0, _5=2.0)


def test_a_batch_of_bad_examples_alone_gets_another_try():
    bad = batch([NAN, 1.0, NAN, 1.0], [0, 1, 2, 3])
    _, state = after(K_SAM, bad)
    _, state = after(K_SAM, batch([NAN, 1.0, 1.0, 1.0], [2, 3, 1, 1]), state=state)
    np.testing.assert_array_equal(held(state)[:4], [NAN, 2.0, NAN, 2.0])
    found, _ = after(K_SAM, batch([4.0, 3.0, 2.0, 1.0], [0, 2, 0, 2]), state=state)
    assert found[0] == 8.0
    assert found[2] == 6.0


class Examples(NamedTuple):
    value: Any
    index: Any


def test_the_numbers_may_be_a_key_an_attribute_or_a_function_of_the_batch():
    values, numbers = jnp.asarray([1.0, 5.0, 3.0, 4.0]), jnp.asarray([7, 2, 0, 5])
    cases = [
        (k_sam(), {"value": values, "index": numbers}),
        (k_sam(index="id"), {"value": values, "id": numbers}),
        (k_sam(), Examples(values, numbers)),
        (k_sam(index=1), (values, numbers)),
        (k_sam(index=lambda b: b["at"][0]), {"value": values, "at": [numbers]}),
    ]

    def loss(w, examples):
        found = examples["value"] if isinstance(examples, dict) else examples[0]
        return found * (w @ w) / 2

    states = quick_jit(
        lambda: [updater(tx, loss)(initial(tx, ONES), ONES, b)[1] for tx, b in cases]
    )()
    assert [held(state) for state in states] == [memory(_7=2.0, _2=10.0)] * len(cases)


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.uint8, jnp.int16, jnp.uint32])
def test_the_numbers_may_be_integers_too_narrow_for_the_size_of_the_data_set(dtype):
    hardest = ksam_jax.highest_remembered_loss(1.0, 70_000)
    tx = ksam_jax.sharpness_aware(ksam_jax.scale_to_radius(RHO), descent=hardest)
    numbers = jnp.asarray([7, 2, 0, 101], dtype)
    _, state = after(tx, batch([1.0, 5.0, 3.0, 4.0], numbers))
    used = np.asarray(state.descent.losses) != NOT_USED
    assert np.flatnonzero(used).tolist() == [0, 2, 7, 101]


SHARDED = """
    import jax
    from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
    from test_remembered import K_SAM, MOMENTUM, ONES, batch, compiled
    from problems import assert_close, initial

    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    by_device = NamedSharding(mesh, P("data"))
    numbers = [[7, 2, 0, 5], [1, 7, 2, 8], [2, 1, 5, 7]]
    for tx in (K_SAM, MOMENTUM):
        alone = shared = initial(tx, ONES)
        for step in [batch([1.0, 5.0, 3.0, 4.0], some) for some in numbers]:
            expected, alone = compiled(tx)(alone, ONES, step)
            sharded = jax.device_put(step, by_device)
            assert len(sharded["value"].addressable_shards) == 2
            found, shared = compiled(tx)(shared, ONES, sharded)
            assert_close(found, expected)
            assert_close(shared, alone)
    print("equal")
"""


@pytest.mark.slow
def test_a_batch_sharded_over_devices_gives_the_same_steps():
    """In a process of its own, since the number of devices is fixed at the first use."""
    paths = [str(Path(__file__).parent), str(Path(ksam_jax.__file__).parents[1])]
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(paths),
    }
    command = [sys.executable, "-c", textwrap.dedent(SHARDED)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stdout.split() == ["equal"], done.stderr[-3000:]
