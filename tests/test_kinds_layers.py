"""Layers that couple examples or draw at random, and losses that compare rows."""

import functools
import traceback
import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from jax.core import Tracer
from problems import (
    assert_close,
    batched,
    cnn,
    embedding,
    is_zero,
    lstm,
    mlp,
    mlp_dropout_loss,
    scanned,
    traced,
    vit,
)

import ksam_jax
from ksam_jax.seen import _tell

N, CLASSES = 8, 3
RNG = np.random.default_rng(0)
W = jnp.asarray(RNG.normal(size=(5, 4)), jnp.float32)
BATCH = {
    "x": jnp.asarray(RNG.normal(size=(N, 5)) - 0.3, jnp.float32),
    "other": jnp.asarray(RNG.normal(size=(N, 5)) + 0.2, jnp.float32),
    "y": jnp.asarray(RNG.integers(0, CLASSES, N)),
    "key": jax.random.split(jax.random.key(1), N),
}
cross_entropy = optax.softmax_cross_entropy_with_integer_labels
K_SAM = functools.partial(ksam_jax.k_sam, k=2)


@pytest.fixture(autouse=True)
def _nothing_fails_in_silence(monkeypatch):
    """What is wrong with the looking is hidden from users, but not from us."""
    failed = []
    findings = _tell._findings

    def watched(*args):
        try:
            return findings(*args)
        except Exception as error:
            traceback.print_exc()
            failed.append(error)
            raise

    monkeypatch.setattr(_tell, "_findings", watched)
    yield
    assert not failed


def told(tx, loss_fn, params: Any = W, batch=BATCH, jit=True, **extra):
    """The texts of the warnings of one step."""

    def step(params, batch):
        return tx.update(
            None, tx.init(params), params, loss_fn=loss_fn, batch=batch, **extra
        )

    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        (jax.jit(step) if jit else step)(params, batch)
    return [str(each.message) for each in found]


def on_rows(batch):
    """As a batch of one, for models that want one."""
    return jax.tree.map(lambda x: x[None], batch)


# Row 6: BatchNorm in an example's loss.


class NNXNetwork(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(5, 6, rngs=rngs)
        self.norm = nnx.BatchNorm(6, rngs=rngs)
        self.last = nnx.Linear(6, CLASSES, rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.relu(self.norm(self.first(x))))


class LinenNetwork(linen.Module):
    is_training: bool

    @linen.compact
    def __call__(self, x):
        x = linen.Dense(6, name="first")(x)
        x = linen.BatchNorm(use_running_average=not self.is_training)(x)
        return linen.Dense(CLASSES)(linen.relu(x))


def nnx_model(is_training):
    graphdef, params, rest = nnx.split(NNXNetwork(nnx.Rngs(0)), nnx.Param, ...)

    def loss(params, batch):
        model = nnx.merge(graphdef, params, rest, copy=True)
        model.train() if is_training else model.eval()
        return cross_entropy(model(batch["x"]), batch["y"]), nnx.state(model, nnx.BatchStat)

    return params, loss, lambda gradient: gradient["first"]


def linen_model(is_training):
    model = LinenNetwork(is_training)
    variables = model.init(jax.random.key(0), BATCH["x"])

    def loss(params, batch):
        given = {**variables, "params": params}
        logits, after = model.apply(given, batch["x"], mutable=["batch_stats"])
        return cross_entropy(logits, batch["y"]), after

    return variables["params"], loss, lambda gradient: gradient["first"]


class BatchNorm:
    """As people write it, in a class of their own."""

    def __call__(self, x):
        axes = tuple(range(x.ndim - 1))
        return (x - x.mean(axes)) / jnp.sqrt(x.var(axes) + 1e-5)


def own_model(is_training):
    params = {"first": W, "last": W[:4, :CLASSES]}

    def loss(params, batch):
        x = batch["x"] @ params["first"]
        x = BatchNorm()(x) if is_training else x
        return cross_entropy(x @ params["last"], batch["y"]), jnp.mean(x)

    return params, loss, lambda gradient: gradient["first"]


MODELS = {"nnx": nnx_model, "linen": linen_model, "own": own_model}
models = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
tells_of_statistics = "BatchNorm in training mode.*batch-level loss with has_aux"


@models
@pytest.mark.parametrize("jit", [True, False], ids=["jit", "eager"])
@pytest.mark.parametrize("make", [K_SAM, ksam_jax.sam], ids=["k_sam", "sam"])
def test_batchnorm_of_one_example_is_told(model, make, jit):
    params, loss, _ = model(is_training=True)
    loss_fn = ksam_jax.per_example(lambda p, e: loss(p, e)[0])
    tx = make()

    def step(params, batch):
        return tx.update((), tx.init(params), params, loss_fn=loss_fn, batch=batch)

    with pytest.warns(UserWarning, match=tells_of_statistics):
        (jax.jit(step) if jit else step)(params, BATCH)


@models
def test_and_it_is_true_that_the_layers_before_it_never_move(model):
    params, loss, first = model(is_training=True)
    one = {name: leaf[:1] for name, leaf in BATCH.items()}
    gradient = jax.grad(lambda p: loss(p, one)[0][0])(params)
    assert is_zero(first(gradient))
    whole = jax.grad(lambda p: jnp.mean(loss(p, BATCH)[0]))(params)
    assert not is_zero(first(whole))


@models
def test_batches_of_one_and_a_vmap_of_the_user_s_are_told_as_well(model):
    params, loss, _ = model(is_training=True)

    def of_one(params, example):
        return loss(params, on_rows(example))[0][0]

    for loss_fn in (ksam_jax.per_example(of_one), batched(of_one)):
        (message,) = told(K_SAM(), loss_fn, params)
        assert "BatchNorm in training mode" in message


@models
def test_batchnorm_of_the_whole_batch_and_in_evaluation_mode_are_not(model):
    params, loss, _ = model(is_training=True)
    for tx in (K_SAM(), ksam_jax.sam(num_microbatches=2)):
        assert not told(tx, loss, params, has_aux=True)
        assert not told(tx, lambda p, b: loss(p, b)[0], params)
    params, loss, _ = model(is_training=False)
    assert not told(K_SAM(), ksam_jax.per_example(lambda p, e: loss(p, e)[0]), params)


@pytest.mark.parametrize("keep", ["auto", "nothing", "all"])
@pytest.mark.parametrize("mode", ["batch", "ema"])
def test_the_axis_of_a_batchnorm_gets_our_words_in_per_example(mode, keep):
    norm, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(4, "batch", mode=mode)

    def loss(w, x, y, inference=None):
        fresh = jax.tree.map(jnp.asarray, state)
        return cross_entropy(norm(x @ w, fresh, inference=inference)[0], y)

    def in_training(w, example):
        return loss(w, example["x"], example["y"])

    def in_evaluation(w, example):
        return loss(w, example["x"], example["y"], inference=True)

    def of_batch(w, batch):
        run = jax.vmap(lambda x, y: loss(w, x, y), axis_name="batch")
        return run(batch["x"], batch["y"])

    tx = K_SAM()
    loss_fn = ksam_jax.per_example(in_training, keep=keep)
    with pytest.raises(ValueError, match=r"axis's name.*batch-level loss with has_aux"):
        tx.update((), tx.init(W), W, loss_fn=loss_fn, batch=BATCH)
    assert not told(tx, ksam_jax.per_example(in_evaluation, keep=keep))
    assert not told(tx, of_batch)


def test_another_name_error_of_the_loss_comes_out_as_it_is():
    def fails(w, example):
        raise NameError("name 'unknown_name' is not defined")

    loss_fn = ksam_jax.per_example(fails)
    with pytest.raises(NameError, match="unknown_name"):
        K_SAM().update((), K_SAM().init(W), W, loss_fn=loss_fn, batch=BATCH)


# Row 7: dropout, and whose key it has.


class Dropping(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(5, 6, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.out = nnx.Linear(6, CLASSES, rngs=rngs)

    def __call__(self, x):
        return self.out(self.dropout(nnx.relu(self.hidden(x))))


def masks_of_steps(is_seeded, stream, steps=4):
    """The masks, (steps, N, 32), that the Flax page's pattern has; and one without it."""
    model, rngs = Dropping(stream), nnx.Rngs(dropout=1)
    tx = K_SAM()

    @nnx.jit
    def step(model, rngs, batch):
        graphdef, weights, rest = nnx.split(model, nnx.Param, ...)
        keys = jax.random.split(rngs.dropout(), N)

        def example_loss(weights, example):
            copy = nnx.merge(graphdef, weights, rest, copy=True)
            if is_seeded:
                nnx.reseed(copy, dropout=example["key"], default=example["key"])
            mask = copy.dropout(jnp.ones(32)) > 0
            return cross_entropy(copy(example["x"]), example["y"]), mask

        _, state = tx.update(
            (),
            tx.init(weights),
            weights,
            loss_fn=ksam_jax.per_example(example_loss),
            batch={**batch, "key": keys},
            has_aux=True,
        )
        return ksam_jax.take_aux(state)[0]

    return np.stack([step(model, rngs, BATCH) for _ in range(steps)])


STREAMS = {"default": {"default": 0}, "named": {"params": 0, "dropout": 3}}


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
def test_the_page_s_pattern_has_a_mask_for_each_example_and_step(stream):
    masks = masks_of_steps(True, nnx.Rngs(**stream))
    assert len(np.unique(masks.reshape(-1, 32), axis=0)) == 4 * N
    assert 0.4 < masks.mean() < 0.6


def test_without_seeding_there_is_one_for_all_which_is_told():
    with pytest.warns(UserWarning, match="doesn't depend on the example.*split"):
        masks = masks_of_steps(False, nnx.Rngs(0))
    assert len(np.unique(masks.reshape(-1, 32), axis=0)) == 1


def dropping(key, w, example):
    kept = jax.random.bernoulli(key, 0.5, example["x"].shape)
    x = jnp.where(kept, example["x"] / 0.5, jnp.zeros_like(example["x"]))
    return cross_entropy(x @ w, example["y"])


def told_with_a_traced_key(tx, make):
    """The warnings of a step that is given a key from outside."""

    def step(w, key):
        return tx.update((), tx.init(w), w, loss_fn=make(key), batch=BATCH)

    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        jax.jit(step)(W, jax.random.key(2))
    return [str(each.message) for each in found]


@pytest.mark.parametrize("make", [K_SAM, ksam_jax.sam], ids=["k_sam", "sam"])
def test_a_key_of_the_step_in_an_example_s_loss_is_told(make):
    def shared(key):
        return ksam_jax.per_example(functools.partial(dropping, key))

    (message,) = told_with_a_traced_key(make(), shared)
    assert "doesn't depend on the example" in message
    assert 'example["key"]' in message


def test_a_key_that_is_folded_with_the_example_is_not():
    def folded(key):
        def loss(w, example):
            return dropping(jax.random.fold_in(key, example["y"]), w, example)

        return ksam_jax.per_example(loss)

    assert not told_with_a_traced_key(K_SAM(), folded)


def test_a_constant_key_is_told_for_all_losses_and_methods():
    key = jax.random.key(3)
    captured = functools.partial(dropping, key)
    literal = ksam_jax.per_example(lambda w, e: dropping(jax.random.key(0), w, e))
    for tx in (K_SAM(), ksam_jax.sam()):
        for loss_fn in (captured, ksam_jax.per_example(captured), literal):
            (message,) = told(tx, loss_fn)
            assert "constant of the compiled step" in message
    # Outside of jit only that is known to be constant which stands in the loss.
    assert "constant of the compiled step" in told(K_SAM(), literal, jit=False)[0]
    assert not told(ksam_jax.sam(), captured, jit=False)


def test_a_batch_s_draws_are_told_where_rows_run_alone():
    def of_batch(key):
        return functools.partial(dropping, key)

    (message,) = told_with_a_traced_key(K_SAM(), of_batch)
    assert "the chosen rows run without the others" in message
    (message,) = told_with_a_traced_key(ksam_jax.sam(num_microbatches=2), of_batch)
    assert "the batch's 2 parts run without the others" in message
    assert not told_with_a_traced_key(ksam_jax.sam(), of_batch)


def test_a_mask_that_all_rows_share_is_theirs_alone_as_well():
    def shared(key):
        def loss(w, batch):
            kept = jax.random.bernoulli(key, 0.5, (5,))
            return cross_entropy(jnp.where(kept, batch["x"], 0.0) @ w, batch["y"])

        return loss

    assert not told_with_a_traced_key(K_SAM(), shared)


def test_noise_on_weights_and_random_features_are_no_dropout():
    def noisy(key):
        noise = jax.random.normal(key, W.shape)
        return ksam_jax.per_example(
            lambda w, e: cross_entropy(e["x"] @ (w + 0.1 * noise), e["y"])
        )

    def within(w, e):
        key = jax.random.key(0)
        noisy_w = w + 0.1 * jax.random.normal(key, w.shape)
        return cross_entropy((e["x"] @ jax.random.normal(key, (5, 5))) @ noisy_w, e["y"])

    assert not told_with_a_traced_key(K_SAM(), noisy)
    assert not told(K_SAM(), ksam_jax.per_example(within))


def test_random_features_that_are_drawn_in_the_loss_are_named_as_harmless():
    """By the trace, phases that stay are as noise that was meant to change."""

    def features(key):
        turns, shift = jax.random.split(key)
        return jax.random.normal(turns, (5, 5)), jax.random.uniform(shift, (5,))

    def seen(w, e, features):
        phases, shift = features
        return cross_entropy(jnp.cos(e["x"] @ phases + shift) @ w, e["y"])

    def within(w, e):
        return seen(w, e, features(jax.random.key(0)))

    drawn_before = functools.partial(seen, features=features(jax.random.key(0)))
    (message,) = told(K_SAM(), ksam_jax.per_example(within))
    assert "random features, signs or phases), nothing is wrong" in message
    assert not told(K_SAM(), ksam_jax.per_example(drawn_before))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*constant of the compiled step")
        loss_fn = ksam_jax.per_example(within)
        K_SAM().update((), K_SAM().init(W), W, loss_fn=loss_fn, batch=BATCH)


# Row 8: losses that depend on who else is in the batch.


def embedded(w, batch):
    return batch["x"] @ w, batch["other"] @ w


def info_nce(w, batch):
    a, b = embedded(w, batch)
    return cross_entropy(a @ b.T, jnp.arange(len(a)))


def clip(w, batch):
    a, b = (z / jnp.linalg.norm(z, axis=1, keepdims=True) for z in embedded(w, batch))
    table, partners = 10.0 * a @ b.T, jnp.arange(len(a))
    return (cross_entropy(table, partners) + cross_entropy(table.T, partners)) / 2


def nt_xent(w, batch):
    z = jnp.concatenate([batch["x"], batch["other"]]) @ w
    n = len(z) // 2
    table = jnp.where(jnp.eye(2 * n, dtype=bool), -1e9, z @ z.T)
    losses = cross_entropy(table, jnp.roll(jnp.arange(2 * n), n))
    return (losses[:n] + losses[n:]) / 2


def sup_con(w, batch):
    a, _ = embedded(w, batch)
    logs = jax.nn.log_softmax(jnp.einsum("id,jd->ij", a, a))
    same = (batch["y"][:, None] == batch["y"][None]).astype(jnp.float32)
    return -jnp.sum(same * logs, axis=1) / jnp.sum(same, axis=1)


def triplet(w, batch):
    a, _ = embedded(w, batch)
    apart = jnp.sum((a[:, None] - a[None]) ** 2, axis=-1)
    same = batch["y"][:, None] == batch["y"][None]
    far = jnp.max(jnp.where(same, apart, 0.0), axis=1)
    return jax.nn.relu(far - jnp.min(jnp.where(same, jnp.inf, apart), axis=1) + 1)


def next_row_as_negative(w, batch):
    a, b = embedded(w, batch)
    away = jnp.sum((a - jnp.roll(b, 1, axis=0)) ** 2, axis=1)
    return jax.nn.relu(jnp.sum((a - b) ** 2, axis=1) - away + 1)


def shuffled_negative(w, batch):
    a, b = embedded(w, batch)
    order = jax.random.permutation(batch["key"][0], len(a))
    return jnp.sum((a - b) ** 2, axis=1) - jnp.sum((a - b[order]) ** 2, axis=1)


def listwise(w, batch):
    scores = jnp.sum(batch["x"] @ w, axis=1)
    return -jax.nn.log_softmax(scores) * batch["y"].astype(jnp.float32)


def barlow(w, batch):
    a, b = ((z - z.mean(0)) / (z.std(0) + 1e-5) for z in embedded(w, batch))
    loss = jnp.sum((a.T @ b / len(a) - jnp.eye(4)) ** 2)
    return jnp.full(len(a), loss)


def vicreg(w, batch):
    a, b = embedded(w, batch)
    c = (a - a.mean(0)).T @ (a - a.mean(0)) / len(a)
    off = jnp.sum((c - jnp.diag(jnp.diag(c))) ** 2)
    return jnp.sum((a - b) ** 2, axis=1) + off


def plain(w, batch):
    return cross_entropy(batch["x"] @ w, batch["y"])


def by_their_sum(w, batch):
    losses = plain(w, batch)
    return losses / losses.sum()


def hard_weighted(w, batch):
    losses = plain(w, batch)
    return jax.nn.softmax(losses / 0.5) * losses


def advantages(w, batch):
    a = jnp.sum(batch["other"], axis=1)
    a = (a - a.mean()) / (a.std() + 1e-8)
    return a * plain(w, batch)


def by_all_tokens(w, batch):
    mask = (batch["other"] > 0).astype(jnp.float32)
    return plain(w, batch) * mask.sum(1) / mask.sum()


def above_the_median(w, batch):
    losses = plain(w, batch)
    return jnp.where(losses >= jnp.median(losses), losses, 0.0)


def cox(w, batch):
    order = jnp.argsort(-batch["other"][:, 0])
    scores = jnp.sum(batch["x"] @ w, axis=1)[order]
    return jax.lax.cumlogsumexp(scores) - scores


def mean_of_all(w, batch):
    return jnp.full(len(batch["x"]), jnp.mean(plain(w, batch)))


def compiled_and_recomputed(w, batch):
    return jax.jit(jax.checkpoint(info_nce))(w, batch)


@jax.custom_vjp
def _product(a, b):
    return a @ b.T


_product.defvjp(lambda a, b: (a @ b.T, (a, b)), lambda ab, ct: (ct @ ab[1], ct.T @ ab[0]))


def by_a_rule_of_its_own(w, batch):
    a, b = embedded(w, batch)
    return cross_entropy(_product(a, b), jnp.arange(len(a)))


COMPARES, SUMS, OTHERS = "compares rows", "a sum or mean over the rows", "takes other rows"
COUPLED = {
    info_nce: COMPARES, clip: COMPARES, nt_xent: COMPARES, sup_con: COMPARES,
    triplet: COMPARES, by_a_rule_of_its_own: COMPARES, compiled_and_recomputed: COMPARES,
    listwise: SUMS, barlow: SUMS, vicreg: SUMS, by_their_sum: SUMS, hard_weighted: SUMS,
    advantages: SUMS, by_all_tokens: SUMS, above_the_median: SUMS, mean_of_all: SUMS,
    next_row_as_negative: OTHERS, shuffled_negative: OTHERS, cox: OTHERS,
}  # fmt: skip
coupled = pytest.mark.parametrize("loss_fn", COUPLED, ids=lambda f: f.__name__)


@coupled
def test_losses_that_depend_on_other_rows_are_told_where_rows_run_alone(loss_fn):
    (message,) = told(K_SAM(), loss_fn)
    assert COUPLED[loss_fn] in message
    assert "k_sam runs the chosen rows without the others" in message
    assert "such as sam or momentum_sam" in message
    assert not told(ksam_jax.sam(), loss_fn)


@coupled
def test_and_it_is_true_that_rows_alone_have_other_losses(loss_fn):
    for rows in (slice(0, 2), slice(2, 5)):
        alone = loss_fn(W, {name: leaf[rows] for name, leaf in BATCH.items()})
        if not np.allclose(alone, loss_fn(W, BATCH)[rows], rtol=1e-3):
            return
    pytest.fail("they are the same")


WHOLE = [
    "sam", "asam", "momentum_sam", "adaptive_momentum_sam", "f_sam", "gsam", "look_sam",
    "le_sam", "vasso", "mean_gradient",
]  # fmt: skip
CHOOSING = ["k_sam", "k_momentum_sam", "esam"]


@pytest.mark.parametrize("name", WHOLE + CHOOSING)
def test_the_methods_that_the_page_calls_right_are_those_that_say_nothing(name):
    found = told(getattr(ksam_jax, name)(), info_nce)
    assert [COMPARES in message for message in found] == [True] * (name in CHOOSING)


def test_one_row_of_info_nce_alone_is_no_update_and_is_told():
    tx = ksam_jax.k_sam(k=1)
    with pytest.warns(UserWarning, match=r"compares rows.*contrastive\.md"):
        updates, state = tx.update((), tx.init(W), W, loss_fn=info_nce, batch=BATCH)
    assert is_zero(updates)
    assert float(ksam_jax.get_info(state).loss) > 0.5


def test_the_page_s_form_descends_on_the_hardest_query():
    """By hand: the softmax's derivative at the one row of the highest loss."""
    candidates = np.asarray(BATCH["other"] @ W, np.float64)
    tx = ksam_jax.k_sam(rho=0.0, k=1, mean_over="chosen")

    def against_all(w, example):
        logits = jnp.asarray(candidates, jnp.float32) @ (example["x"] @ w)
        return cross_entropy(logits, example["number"])

    numbered = {**BATCH, "number": jnp.arange(N)}
    loss_fn = ksam_jax.per_example(against_all)
    updates, _ = tx.update((), tx.init(W), W, loss_fn=loss_fn, batch=numbered)
    x = np.asarray(BATCH["x"], np.float64)
    logits = x @ np.asarray(W, np.float64) @ candidates.T
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    hardest = int(np.argmax(-np.log(np.diag(shares))))
    pull = candidates.T @ (shares[hardest] - np.eye(N)[hardest])
    assert_close(updates, jnp.asarray(np.outer(x[hardest], pull), jnp.float32), rtol=1e-5)


# What must not be told.


def masked_tokens(w, batch):
    losses = cross_entropy(batch["x"][..., None] * w, jnp.zeros((len(batch["x"]), 5), int))
    mask = (batch["other"] > 0).astype(losses.dtype)
    return jnp.sum(losses * mask, axis=1) / jnp.maximum(jnp.sum(mask, axis=1), 1.0)


def by_number_of_row(w, batch):
    logs = jax.nn.log_softmax(batch["x"] @ w)
    return -logs[jnp.arange(len(logs)), batch["y"]]


def mixed_up(w, batch):
    """The mixing itself was done before; both labels are in the batch."""
    logits, share = batch["x"] @ w, jax.nn.sigmoid(batch["other"][:, 0])
    second = cross_entropy(logits, (batch["y"] + 1) % CLASSES)
    return share * cross_entropy(logits, batch["y"]) + (1 - share) * second


def one_row_at_a_time(w, batch):
    return jax.lax.map(lambda row: plain(w, on_rows(row))[0], batch)


def two_views_in_one_pass(w, batch):
    a, b = jnp.split(jnp.tanh(jnp.concatenate([batch["x"], batch["other"]]) @ w), 2)
    return jnp.sum((a - b) ** 2, axis=1)


def finite_only(w, batch):
    losses = plain(w, batch)
    return jnp.where(jnp.all(jnp.isfinite(losses)), losses, 0.0)


def stacked_views(w, batch):
    both = jnp.stack([batch["x"] @ w, batch["other"] @ w], axis=1)
    return cross_entropy(both, jnp.stack([batch["y"]] * 2, axis=1)).mean(1)


def one_stack_per_column(w, batch):
    columns = jnp.unstack(batch["x"] @ w, axis=1)
    return sum(columns[1:], start=columns[0])


def transformer(is_scanned, is_recomputed):
    class Block(linen.Module):
        @linen.compact
        def __call__(self, x, _):
            x = x + linen.MultiHeadDotProductAttention(2)(linen.LayerNorm()(x))
            return x + linen.Dense(8)(
                linen.gelu(linen.Dense(8)(linen.LayerNorm()(x)))
            ), None

    class Network(linen.Module):
        @linen.compact
        def __call__(self, tokens):
            x = linen.Embed(11, 8)(tokens)
            first = self.param("first", linen.initializers.normal(), (1, 1, 8))
            x = jnp.concatenate([jnp.broadcast_to(first, (len(x), 1, 8)), x], axis=1)
            block = linen.remat(Block) if is_recomputed else Block
            if not is_scanned:
                return linen.Dense(11)(block()(x, None)[0][:, 1:])
            how = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
            x, _ = linen.scan(block, length=2, **how)()(x, None)
            return linen.Dense(11)(x[:, 1:])

    tokens = jnp.asarray(RNG.integers(0, 11, (N, 6)))
    params = Network().init(jax.random.key(0), tokens)

    def loss(params, batch):
        logits: Any = Network().apply(params, batch["tokens"])
        return cross_entropy(logits, batch["tokens"]).mean(1)

    return params, loss, {"tokens": tokens}


def small(problem):
    return problem.params, batched(problem.example_loss), problem.batch


def with_pooling():
    class Network(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = linen.relu(linen.GroupNorm(3)(linen.Conv(6, (3, 3))(x)))
            x = linen.max_pool(x, (2, 2), (2, 2))
            return linen.Dense(CLASSES)(x.reshape(len(x), -1))

    images = jnp.asarray(RNG.normal(size=(N, 8, 8, 3)), jnp.float32)
    params = Network().init(jax.random.key(0), images)

    def loss(params, batch):
        logits: Any = Network().apply(params, batch["x"])
        return cross_entropy(logits, batch["y"])

    return params, loss, {"x": images, "y": BATCH["y"]}


QUIET = {
    "mlp": lambda: small(mlp()),
    "mlp with dropout keys": lambda: small(mlp()._replace(example_loss=mlp_dropout_loss)),
    "cnn": lambda: small(cnn()),
    "cnn with pooling": with_pooling,
    "vit": lambda: small(vit()),
    "scanned layers": lambda: small(scanned()),
    "lstm": lambda: small(lstm()),
    "embedding": lambda: small(embedding()),
    "transformer": lambda: transformer(False, False),
    "transformer, recomputed": lambda: transformer(False, True),
    "transformer, scanned and recomputed": lambda: transformer(True, True),
    **{
        f.__name__: lambda f=f: (W, f, BATCH)
        for f in (
            plain, masked_tokens, by_number_of_row, mixed_up, one_row_at_a_time,
            two_views_in_one_pass, finite_only, stacked_views, one_stack_per_column,
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("make", QUIET.values(), ids=QUIET)
def test_ordinary_losses_are_not_told_of(make):
    params, loss_fn, batch = make()

    def of_one(params, example):
        return loss_fn(params, on_rows(example))[0]

    assert not told(K_SAM(), loss_fn, params, batch)
    assert not told(K_SAM(), ksam_jax.per_example(of_one), params, batch)


def test_rows_are_still_known_behind_a_model():
    """Or else nothing would be told of whatever came behind one."""
    for make in (with_pooling, lambda: transformer(True, True), lambda: small(cnn())):
        params, loss_fn, batch = make()

        def by_sum(params, batch, loss_fn=loss_fn):
            losses = loss_fn(params, batch)
            return losses / losses.sum()

        assert SUMS in told(K_SAM(), by_sum, params, batch)[0]


@pytest.mark.parametrize("axis", [0, 1])
def test_rows_are_still_known_in_a_stack(axis):
    def by_sum(w, batch):
        losses = plain(w, batch)
        losses = jnp.stack([losses, jnp.ones_like(losses)], axis=axis).sum(axis)
        return losses / losses.sum()

    assert SUMS in told(K_SAM(), by_sum)[0]


def test_one_row_out_of_a_stack_of_them_is_told():
    def against_the_first(w, batch):
        rows = jnp.unstack(batch["x"] @ w)
        return jnp.sum((batch["x"] @ w - rows[0]) ** 2, axis=1)

    assert len(told(K_SAM(), against_the_first)) == 1


# How it is told.


def test_a_step_of_many_programs_tells_it_once():
    example_loss = functools.partial(dropping, jax.random.key(0))
    two = ksam_jax.join_methods([ksam_jax.k_sam(), ksam_jax.esam(), ksam_jax.sam()], [2, 3])
    for tx in (ksam_jax.k_sam(), two):
        assert len(told(tx, info_nce)) == 1
        assert len(told(tx, ksam_jax.per_example(example_loss))) == 1


def test_it_is_told_in_the_trace_and_not_in_the_step():
    tx = K_SAM()
    step = jax.jit(lambda w, b: tx.update((), tx.init(w), w, loss_fn=info_nce, batch=b))
    with pytest.warns(UserWarning, match="compares rows"):
        step(W, BATCH)
    step(W, BATCH)  # Warnings are errors here.


def test_the_usual_filter_silences_it():
    tx = K_SAM()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*without the others")
        tx.update((), tx.init(W), W, loss_fn=info_nce, batch=BATCH)


def test_it_points_at_the_line_that_asked_for_the_step():
    tx = optax.chain(K_SAM(), optax.sgd(0.1))
    step = jax.jit(lambda w, b: tx.update((), tx.init(w), w, loss_fn=info_nce, batch=b))
    with pytest.warns(UserWarning, match="compares rows") as found:
        step(W, BATCH)
    assert found[0].filename == __file__


@pytest.mark.parametrize("make", [K_SAM, ksam_jax.sam], ids=["k_sam", "sam"])
@pytest.mark.parametrize("of_examples", [False, True])
def test_the_program_of_a_step_is_the_same(make, of_examples, monkeypatch):
    with_keys = ksam_jax.per_example(lambda w, e: dropping(e["key"], w, e))
    tx, loss_fn = make(), with_keys if of_examples else plain

    def step(w, batch):
        return tx.update((), tx.init(w), w, loss_fn=loss_fn, batch=batch)

    looked = traced(step, W, BATCH)
    monkeypatch.setattr("ksam_jax.step._transformation.tell", lambda *args: None)
    assert traced(step, W, BATCH) == looked


def test_outside_of_jit_a_loss_is_looked_at_once():
    traces = []

    def loss_fn(w, batch):
        traces.append(isinstance(batch["x"], Tracer))
        return plain(w, batch)

    for _ in range(3):
        ksam_jax.sam().update((), ksam_jax.sam().init(W), W, loss_fn=loss_fn, batch=BATCH)
    assert sum(traces) == 1


def test_a_loss_that_can_t_be_looked_at_is_not_spoken_of(monkeypatch):
    def reads_numbers(w, batch):
        return plain(w, batch) * float(np.asarray(batch["x"])[0, 0] ** 2 + 1)

    monkeypatch.setattr(_tell, "_findings", lambda *args: _fail())
    assert not told(K_SAM(), reads_numbers, jit=False)


def _fail():
    raise ValueError("unreadable")


def test_each_device_is_told_of_inside_shard_map():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    P = jax.sharding.PartitionSpec
    tx = K_SAM(axis_name="data")

    def step(w, batch):
        return tx.update((), tx.init(w), w, loss_fn=info_nce, batch=batch)[0]

    spread = jax.shard_map(step, mesh=mesh, in_specs=(P(), P("data")), out_specs=P())
    with pytest.warns(UserWarning, match="compares rows"):
        jax.jit(spread)(W, BATCH)
