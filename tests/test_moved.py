"""Scripts with SGD become ones with `k_sam` by five lines, and train as written by hand."""

import difflib
from typing import Any

import by_hand
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scripts_moved
import test_equinox
import test_linen
from by_hand import BATCHES, N, Net, hardest, moved
from flax import nnx
from jax import lax
from problems import Draw, assert_close

RATE, MOMENTUM, KEEP = 0.2, 0.9, 0.7
IMAGES = [
    {"x": draw((N, 5, 5, 3), 1.5), "y": draw.labels(N, 3)} for draw in map(Draw, range(3))
]
SCRIPTS = {"NNX": scripts_moved.NNX, "Linen": scripts_moved.LINEN}
SCRIPTS |= {"Equinox": scripts_moved.EQUINOX}


def run(script: str, **given: Any) -> dict[str, Any]:
    names = {"cross_entropy": optax.softmax_cross_entropy_with_integer_labels, **given}
    exec(compile(script, "script", "exec"), names)
    return names


@pytest.mark.parametrize("name", SCRIPTS)
def test_at_most_five_lines_have_to_be_written(name):
    before, after = (script.splitlines() for script in SCRIPTS[name])
    written = [line for line in difflib.ndiff(before, after) if line.startswith("+ ")]
    written = [line for line in written if line[2:].strip()]
    assert 3 <= len(written) <= 5, written
    assert len(after) <= len(before)
    assert not any(
        word in "\n".join(after) for word in ("split", "merge", "vmap", "take_aux")
    )


# A residual network with BatchNorm and dropout, as Flax has it and written out.


class Residual(nnx.Module):
    def __init__(self, rngs):
        def conv(n_in):
            return nnx.Conv(n_in, 4, (3, 3), use_bias=False, rngs=rngs)

        def norm():
            return nnx.BatchNorm(4, momentum=KEEP, rngs=rngs)

        self.stem, self.stem_norm = conv(3), norm()
        self.first, self.first_norm = conv(4), norm()
        self.second, self.second_norm = conv(4), norm()
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.out = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.stem_norm(self.stem(x)))
        inner = nnx.relu(self.first_norm(self.first(x)))
        x = nnx.relu(x + self.second_norm(self.second(inner)))
        return self.out(self.dropout(x.mean((1, 2))))


def losses(weights, batch, mask):
    """Losses of shape (N,), and the means and variances of this batch, by layer."""
    seen = {}

    def layer(name, x):
        ways = ("NHWC", "HWIO", "NHWC")
        x = lax.conv_general_dilated(
            x, weights[name]["kernel"], (1, 1), "SAME", dimension_numbers=ways
        )
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        seen[f"{name}_norm"] = {"mean": mean, "var": var}
        own = weights[f"{name}_norm"]
        return (x - mean) / jnp.sqrt(var + 1e-5) * own["scale"] + own["bias"]

    x = jnp.maximum(layer("stem", batch["x"]), 0)
    x = jnp.maximum(x + layer("second", jnp.maximum(layer("first", x), 0)), 0)
    kept = jnp.where(mask, x.mean((1, 2)) / 0.5, 0.0)
    logits = kept @ weights["out"]["kernel"] + weights["out"]["bias"]
    right = jnp.take_along_axis(logits, batch["y"][:, None], axis=1)[:, 0]
    return jax.nn.logsumexp(logits, axis=1) - right, seen


@jax.jit
def of_rows(weights, batch, mask, rows):
    def total(weights):
        part = jax.tree.map(lambda x: x[rows], (batch, mask))
        return losses(weights, *part)[0].sum() / N

    return jax.grad(total)(weights)


def trained_by_hand(net, masks):
    """K-SAM with k = 4 and rho = 0.1 behind SGD with momentum, and running statistics."""
    weights, stats, speed = net.weights, net.stats, None
    for batch, mask in zip(IMAGES, masks, strict=True):
        clean, seen = losses(weights, batch, mask)
        rows = hardest(clean, 4)
        up = of_rows(weights, batch, mask, rows)
        found = of_rows(moved(weights, up, 0.1), batch, mask, rows)
        old = speed or jax.tree.map(jnp.zeros_like, found)
        speed = jax.tree.map(lambda s, g: MOMENTUM * s + g, old, found)
        weights = jax.tree.map(lambda w, s: w - RATE * s, weights, speed)
        stats = jax.tree.map(lambda old, new: KEEP * old + (1 - KEEP) * new, stats, seen)
    return Net(weights, stats)


def net_of(model):
    def kept(kind):
        return jax.tree.map(jnp.copy, nnx.to_pure_dict(nnx.state(model, kind)))

    return Net(kept(nnx.Param), kept(nnx.BatchStat))


def masks_of(model):
    """Of each step and example, by the key that the model's stream would give next."""
    stream = model.dropout.rngs
    key, first = stream.key[...], int(stream.count[...])

    def of_one(key):
        return jax.random.bernoulli(jax.random.fold_in(key, 0), 0.5, (1, 4))[0]

    steps = [jax.random.fold_in(key, first + step) for step in range(3)]
    return [jax.vmap(of_one)(jax.random.split(step, N)) for step in steps]


def test_a_residual_network_in_nnx():
    before, after = SCRIPTS["NNX"]
    model = Residual(nnx.Rngs(0))
    start = net_of(model)
    names = run(before, model=model)
    assert np.isfinite([names["train_step"](model, names["optimizer"], IMAGES[0])]).all()
    assert not np.array_equal(
        net_of(model).weights["out"]["bias"], start.weights["out"]["bias"]
    )

    model = Residual(nnx.Rngs(0))
    expected = trained_by_hand(start, masks_of(model))
    names = run(after, model=model)
    for batch in IMAGES:
        names["train_step"](model, names["optimizer"], batch)
    assert_close(net_of(model), expected, 1e-6, 1e-6)


# The others, with the network of `by_hand`.


def test_a_network_in_linen():
    model = test_linen.Network(True, True)
    keys = {"params": test_linen.KEY, "dropout": test_linen.KEY}
    variables = model.init(keys, BATCHES[0]["x"])
    given = {"params": variables["params"], "batch_stats": variables["batch_stats"]}
    before, after = SCRIPTS["Linen"]
    found = []
    for script in (before, after):
        names = run(script, model=model, key=test_linen.KEY, **given)
        state = names["state"]
        for batch in BATCHES:
            state = names["train_step"](state, batch)
        found.append(state)
    net = Net(given["params"], given["batch_stats"]["norm"])
    expected = by_hand.train("k_sam", net, test_linen.masks())
    assert_close(found[1].params, expected.weights, 1e-6, 1e-6)
    assert_close(found[1].variables["batch_stats"]["norm"], expected.stats, 1e-6, 1e-6)
    moved_by = jnp.abs(found[0].params["out"]["bias"] - found[1].params["out"]["bias"])
    assert float(moved_by.max()) > 1e-3


def test_a_network_in_equinox():
    found = []
    start, _ = eqx.nn.make_with_state(test_equinox.Network)(True, True)
    for script in SCRIPTS["Equinox"]:
        model, state = eqx.nn.make_with_state(test_equinox.Network)(True, True)
        names = run(script, model=model)
        opt_state = names["opt_state"]
        for step, batch in enumerate(BATCHES):
            key = jax.random.fold_in(test_equinox.KEY, step)
            model, opt_state, state = names["train_step"](
                model, opt_state, batch, key, state
            )
        stats = state.get(model.norm.batch_state_index)
        found.append((test_equinox.weights_of(model), stats))
    first = {"mean": jnp.zeros(6), "var": jnp.ones(6)}
    net = Net(test_equinox.weights_of(start), first)
    expected = by_hand.train("k_sam", net, test_equinox.masks())
    (before, _), (after, (mean, var)) = found
    assert_close(after, expected.weights, 1e-6, 1e-6)
    assert_close({"mean": mean, "var": var}, expected.stats, 1e-6, 1e-6)
    assert float(jnp.abs(before["out"]["bias"] - after["out"]["bias"]).max()) > 1e-3
