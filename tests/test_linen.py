"""`ksam_jax.linen`: whole steps of Linen models, against steps written out by hand."""

import by_hand
import jax
import jax.numpy as jnp
import optax
import pytest
from by_hand import BATCHES, MOMENTUM, RATE, N, Net
from flax import linen
from problems import assert_close, cross_entropy
from test_nnx import METHODS, methods

import ksam_jax
import ksam_jax.linen
from ksam_jax.linen import _loss
from ksam_jax.models import _choice

pytestmark = pytest.mark.xdist_group("linen")
KEY = jax.random.key(7)


class Network(linen.Module):
    """What `by_hand` has written out."""

    has_norm: bool = False
    has_dropout: bool = False

    @linen.compact
    def __call__(self, x, is_training=True):
        x = linen.Dense(6, name="hidden")(x)
        if self.has_norm:
            norm = linen.BatchNorm(momentum=by_hand.NORM_MOMENTUM, name="norm")
            x = norm(x, use_running_average=not is_training)
        x = linen.tanh(x)
        if self.has_dropout:
            x = linen.Dropout(0.5, name="dropout")(x, deterministic=not is_training)
        return linen.Dense(3, name="out")(x)


class Mask(linen.Module):
    """What the dropout of `Network` keeps."""

    @linen.compact
    def __call__(self, x):
        return linen.Dropout(0.5, name="dropout", deterministic=False)(x) > 0


def losses_of(apply, batch):
    return jax.vmap(cross_entropy)(apply(batch["x"]), batch["y"])


LOSS = ksam_jax.linen.loss(losses_of)


def state_of(method, *has, **fields):
    model = Network(*has)
    variables = model.init({"params": KEY, "dropout": KEY}, BATCHES[0]["x"])
    params = variables.pop("params")
    tx = optax.chain(METHODS[method](), optax.sgd(RATE, momentum=MOMENTUM))
    return ksam_jax.linen.TrainState.create(
        apply_fn=model.apply, params=params, tx=tx, variables=variables, **fields
    )


def trained(state, loss=LOSS, batches=BATCHES):
    @jax.jit
    def train_step(state, batch):
        return state.apply_gradients(loss=loss, batch=batch)

    for batch in batches:
        state = train_step(state, batch)
    return state


def masks(steps=3):
    def of_one(key):
        return Mask().apply({}, jnp.ones((1, 6)), rngs={"dropout": key})[0]

    keys = [jax.random.fold_in(jax.random.fold_in(KEY, t), 0) for t in range(steps)]
    return [jax.vmap(of_one)(jax.random.split(key, N)) for key in keys]


CASES = {
    "dense": ((False, False), "examples"),
    "BatchNorm": ((True, False), "batch"),
    "dropout": ((False, True), "examples"),
    "BatchNorm, dropout": ((True, True), "rows"),
}


@methods
@pytest.mark.parametrize(("has", "form"), CASES.values(), ids=CASES)
def test_a_step_is_the_one_by_hand(method, has, form, monkeypatch):
    forms = []

    def watched(*args):
        forms.append(_choice.chosen_form(*args))
        return forms[-1]

    monkeypatch.setattr(_loss, "chosen_form", watched)
    has_norm, has_dropout = has
    state = state_of(method, *has, key=KEY if has_dropout else None)
    stats = state.variables["batch_stats"]["norm"] if has_norm else None
    drawn = masks() if has_dropout else (None,) * 3
    expected = by_hand.train(method, Net(state.params, stats), drawn)
    state = trained(state)
    assert forms == [form]
    assert_close(state.params, expected.weights, 3e-6, 3e-6)
    if has_norm:
        assert_close(state.variables["batch_stats"]["norm"], expected.stats, 1e-6, 1e-6)
    assert int(state.step) == 3


def test_in_evaluation_mode_nothing_is_written():
    def losses(apply, batch):
        logits = apply(batch["x"], is_training=False)
        return jax.vmap(cross_entropy)(logits, batch["y"])

    state = state_of("k_sam", True, True, key=jax.random.PRNGKey(3))
    after = trained(state, ksam_jax.linen.loss(losses))
    assert_close(after.variables, state.variables, 0, 0)


def test_aux_and_info_are_returned_by_update():
    def losses(apply, batch):
        logits = apply(batch["x"])
        return jax.vmap(cross_entropy)(logits, batch["y"]), logits

    for has, _ in CASES.values():
        state = state_of("k_sam", *has, key=KEY)
        loss = ksam_jax.linen.loss(losses, has_aux=True)
        _, info, logits = jax.jit(loss.update)(state, BATCHES[0])
        found = jax.vmap(cross_entropy)(logits, BATCHES[0]["y"]).mean()
        assert_close(found, info.loss)


def test_a_scan_over_steps():
    state = state_of("k_sam", True, True, key=KEY)
    state = state.replace(step=jnp.array(0))

    def step(state, batch):
        return state.apply_gradients(loss=LOSS, batch=batch), None

    stacked = jax.tree.map(lambda *x: jnp.stack(x), *BATCHES)
    scanned, _ = jax.jit(lambda s: jax.lax.scan(step, s, stacked))(state)
    assert_close(scanned.params, trained(state).params)


def test_gradients_are_taken_as_flax_does():
    state = state_of("sam")
    plain = ksam_jax.linen.TrainState.create(
        apply_fn=state.apply_fn, params=state.params, tx=optax.sgd(1.0)
    )
    after = plain.apply_gradients(grads=plain.params)
    assert not any(jnp.any(x) for x in jax.tree.leaves(after.params))


def test_wrong_arguments_are_named():
    state, update = state_of("sam"), LOSS.update
    with pytest.raises(TypeError, match=r"state must be a ksam_jax\.linen\.TrainState"):
        update(state.params, BATCHES[0])
    with pytest.raises(ValueError, match=r"state\.tx must have exactly one.*found 0"):
        update(state.replace(tx=optax.sgd(0.1), opt_state=()), BATCHES[0])
    with pytest.raises(TypeError, match="either loss or grads must be given"):
        state.apply_gradients(batch=BATCHES[0])
    mean = ksam_jax.linen.loss(lambda *args: losses_of(*args).mean())
    with pytest.raises(ValueError, match=r"linen\.loss\(function\).*remove the mean"):
        mean.update(state, BATCHES[0])
    mine = ksam_jax.linen.loss(losses_of, per_example=True)
    with pytest.raises(ValueError, match=r"per_example=True\): the model must not write"):
        mine.update(state_of("sam", True), BATCHES[0])
