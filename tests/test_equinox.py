"""`ksam_jax.equinox`: whole steps of Equinox models, against steps written out by hand."""

from typing import Any

import by_hand
import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import pytest
from by_hand import BATCHES, MOMENTUM, RATE, N, Net
from problems import assert_close, cross_entropy
from test_nnx import METHODS, methods

import ksam_jax
import ksam_jax.equinox

pytestmark = pytest.mark.xdist_group("equinox")
KEY = jax.random.key(7)


class Network(eqx.Module):
    """What `by_hand` has written out."""

    hidden: eqx.nn.Linear
    norm: Any
    dropout: eqx.nn.Dropout
    out: eqx.nn.Linear

    def __init__(self, has_norm=False, has_dropout=False, axis_name="batch"):
        first, last = jax.random.split(jax.random.key(0))
        self.hidden = eqx.nn.Linear(3, 6, key=first)
        momentum = by_hand.NORM_MOMENTUM
        norm = eqx.nn.BatchNorm(6, axis_name, momentum=momentum, mode="batch")
        self.norm = norm if has_norm else None
        self.dropout = eqx.nn.Dropout(0.5, inference=not has_dropout)
        self.out = eqx.nn.Linear(6, 3, key=last)

    def __call__(self, x, state, key=None):
        x = self.hidden(x)
        if self.norm is not None:
            x, state = self.norm(x, state)
        return self.out(self.dropout(jnp.tanh(x), key=key)), state


def loss_of(model, example, key=None, state=None):
    logits, after = model(example["x"], state, key)
    found = cross_entropy(logits, example["y"])
    return found if state is None else (found, after)


LOSS = ksam_jax.equinox.loss(loss_of)


def chain(method):
    return optax.chain(METHODS[method](), optax.sgd(RATE, momentum=MOMENTUM))


def weights_of(model):
    def dense(layer):
        return {"kernel": layer.weight.T, "bias": layer.bias}

    found = {"hidden": dense(model.hidden), "out": dense(model.out)}
    if model.norm is not None:
        found["norm"] = {"scale": model.norm.weight, "bias": model.norm.bias}
    return found


def masks(steps=3):
    def of_one(key):
        return jax.random.bernoulli(key, 0.5, (6,))

    keys = [jax.random.fold_in(KEY, t) for t in range(steps)]
    return [jax.vmap(of_one)(jax.random.split(key, N)) for key in keys]


CASES = [(False, False), (True, False), (False, True), (True, True)]


@methods
@pytest.mark.parametrize("has", CASES)
def test_a_step_is_the_one_by_hand(method, has):
    (has_norm, has_dropout), tx = has, chain(method)
    model, state = eqx.nn.make_with_state(Network)(*has)
    state = state if has_norm else None
    start = {"mean": jnp.zeros(6), "var": jnp.ones(6)} if has_norm else None
    drawn = masks() if has_dropout else (None,) * 3
    expected = by_hand.train(method, Net(weights_of(model), start), drawn)

    @eqx.filter_jit
    def train_step(model, opt_state, batch, key, state):
        key = key if has_dropout else None
        return LOSS.update(model, tx, opt_state, batch, key=key, state=state)

    opt_state = LOSS.init(model, tx)
    for t, batch in enumerate(BATCHES):
        key = jax.random.fold_in(KEY, t)
        model, opt_state, info, state, _ = train_step(model, opt_state, batch, key, state)
        assert float(info.loss) > 0
    assert_close(weights_of(model), expected.weights, 3e-6, 3e-6)
    if state is not None:
        mean, var = state.get(model.norm.batch_state_index)
        assert_close({"mean": mean, "var": var}, expected.stats, 1e-6, 1e-6)


def test_only_what_is_trained_is_perturbed_and_trained():
    model = Network()
    spec = jax.tree.map(lambda _: False, model)
    spec = eqx.tree_at(lambda m: m.out.weight, spec, True)
    loss, tx = ksam_jax.equinox.loss(loss_of, trained=spec), chain("k_sam")
    after = loss.update(model, tx, loss.init(model, tx), BATCHES[0]).model
    assert_close(after.hidden.weight, model.hidden.weight, 0, 0)
    assert_close(after.out.bias, model.out.bias, 0, 0)
    assert float(jnp.abs(after.out.weight - model.out.weight).max()) > 1e-4


@pytest.mark.parametrize("has", CASES)
def test_aux_is_stacked(has):
    def with_logits(model, example, key=None, state=None):
        logits, after = model(example["x"], state, key)
        found = cross_entropy(logits, example["y"]), logits
        return found if state is None else (*found, after)

    model, state = eqx.nn.make_with_state(Network)(*has)
    loss, tx = ksam_jax.equinox.loss(with_logits, has_aux=True), chain("k_sam")
    given: dict[str, Any] = {"state": state} if has[0] else {}
    given |= {"key": KEY} if has[1] else {}
    found = loss.update(model, tx, loss.init(model, tx), BATCHES[0], **given)
    losses = jax.vmap(cross_entropy)(found.aux, BATCHES[0]["y"])
    assert_close(losses.mean(), found.info.loss)


def test_in_inference_mode_the_state_stays():
    model, state = eqx.nn.make_with_state(Network)(True, True)
    model, tx = eqx.nn.inference_mode(model), chain("k_sam")
    after = LOSS.update(model, tx, LOSS.init(model, tx), BATCHES[0], state=state).state
    assert_close(jax.tree.leaves(after), jax.tree.leaves(state), 0, 0)


def test_wrong_arguments_are_named():
    model, tx = Network(), chain("k_sam")
    opt_state, batch = LOSS.init(model, tx), BATCHES[0]
    with pytest.raises(ValueError, match=r"opt_state must be that of a chain.*found 0"):
        LOSS.update(model, optax.sgd(0.1), optax.sgd(0.1).init(0.0), batch)
    with pytest.raises(TypeError, match=r"state must be an eqx\.nn\.State; got 3"):
        LOSS.update(model, tx, opt_state, batch, state=3)
    with pytest.raises(TypeError, match=r"called with the model, one example, key=; got"):
        ksam_jax.equinox.loss(lambda model, x: 0.0).update(
            model, tx, opt_state, batch, key=KEY
        )
    has_aux = ksam_jax.equinox.loss(loss_of, has_aux=True)
    with pytest.raises(TypeError, match=r"function must return \(loss, aux\); got"):
        has_aux.update(model, tx, opt_state, batch)

    both, state = eqx.nn.make_with_state(
        lambda: [Network(True), Network(True, axis_name="b")]
    )()
    with pytest.raises(ValueError, match="axis_name must be the same in all layers"):
        LOSS.update(both, tx, LOSS.init(both, tx), batch, state=state)
