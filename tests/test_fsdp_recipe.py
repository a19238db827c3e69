"""Weights sharded over the devices of the batch, under `jax.jit`: the page's recipe."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from problems import initial, quick_jit

import ksam_jax as library

ksam_jax: Any = library
DEVICES, N, FEATURES, STEPS = 8, 40, 16, 4
RNG = np.random.default_rng(3)
BATCH = {
    "x": RNG.normal(0.2, 1, (N, FEATURES)).astype(np.float32),
    "y": RNG.normal(0.2, 1, N).astype(np.float32),
}
START = RNG.normal(0.2, 1, FEATURES).astype(np.float32)


def one_loss(w, example):
    return jnp.square(example["x"] @ w - example["y"])


def gathered(w, example):
    return one_loss(jax.lax.with_sharding_constraint(w, P()), example)


of_examples = ksam_jax.per_example(one_loss)


def around(w, batch):
    return of_examples(jax.sharding.reshard(w, P()), batch)


RECIPES = {
    "auto": (AxisType.Auto, ksam_jax.per_example(gathered)),
    "explicit": (AxisType.Explicit, around),
}
METHODS = {
    "sam": ksam_jax.sam(0.1),
    "k_sam": ksam_jax.k_sam(0.1, k=2, groups=DEVICES),
    "esam": ksam_jax.esam(0.1, groups=DEVICES),
    "f_sam": ksam_jax.f_sam(0.1),
    "k_momentum_sam": ksam_jax.k_momentum_sam(0.1, k=2, groups=DEVICES),
}


def trained(method, loss_fn, w: Any, batch: Any) -> Any:
    tx: Any = optax.chain(method, optax.sgd(0.01, momentum=0.9))

    @quick_jit
    def step(w, state):
        updates, state = tx.update(None, state, w, loss_fn=loss_fn, batch=batch)
        return optax.apply_updates(w, updates), state

    state = initial(tx, w)
    for _ in range(STEPS):
        w, state = step(w, state)
    return w


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", METHODS)
def test_sharded_weights_train_as_on_one_device(name, recipe):
    method = METHODS[name]
    expected = trained(method, of_examples, jnp.asarray(START), BATCH)
    kind, loss_fn = RECIPES[recipe]
    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(kind,))
    with jax.set_mesh(mesh):
        on_data = NamedSharding(mesh, P("data"))
        w, batch = jax.device_put((START, BATCH), on_data)
        found = trained(method, loss_fn, w, batch)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert found.sharding.is_equivalent_to(on_data, 1)
