"""`ksam_jax.nnx` with models of all kinds: what they write, draw, stack and couple."""

import warnings
from typing import Any

import by_hand
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from by_hand import BATCHES, N
from flax import nnx
from problems import assert_close, cross_entropy
from test_nnx import LOSS, Network, losses_of, optimizer_of, trained, weights_of

import ksam_jax
import ksam_jax.nnx
from ksam_jax.models import _choice
from ksam_jax.nnx import _loss

pytestmark = pytest.mark.xdist_group("nnx")


@pytest.fixture
def forms(monkeypatch):
    """Which forms were taken."""
    found = []

    def watched(*args):
        found.append(_choice.chosen_form(*args))
        return found[-1]

    monkeypatch.setattr(_loss, "chosen_form", watched)
    return found


def one_step(model, loss=LOSS, method="k_sam", **extra):
    optimizer = optimizer_of(model, method)

    @nnx.jit
    def train_step(model, optimizer, batch):
        return loss.update(model, optimizer, batch, **extra)

    return train_step(model, optimizer, BATCHES[0])


def dense(rngs):
    return nnx.Linear(3, 3, rngs=rngs)


class WithLayer(nnx.Module):
    def __init__(self, rngs, make):
        self.first = nnx.Linear(3, 6, rngs=rngs)
        self.layer = make(rngs)
        self.out = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
        return self.out(self.layer(nnx.tanh(self.first(x))))


class OwnNorm(nnx.Module):
    """A BatchNorm that keeps nothing, and isn't called so."""

    def __init__(self, rngs):
        del rngs

    def __call__(self, x):
        return (x - x.mean(0)) / (x.std(0) + 0.1)


class OwnMean(OwnNorm):
    """The mean over the batch, which it remembers."""

    def __init__(self, rngs):
        del rngs
        self.mean = nnx.Variable(jnp.zeros(6))

    def __call__(self, x):
        self.mean[...] = jax.lax.stop_gradient(0.5 * (self.mean[...] + x.mean(0)))
        return x - x.mean(0)


class Attention(nnx.Module):
    """Between the features as tokens."""

    def __init__(self, rngs):
        self.attend = nnx.MultiHeadAttention(
            2, 4, decode=False, deterministic=False, dropout_rate=0.3, rngs=rngs
        )
        self.up, self.down = nnx.Linear(1, 4, rngs=rngs), nnx.Linear(4, 1, rngs=rngs)

    def __call__(self, x):
        return self.down(self.attend(self.up(x[..., None])))[..., 0]


class Convolution(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 2, (3,), rngs=rngs)

    def __call__(self, x):
        x = nnx.avg_pool(self.conv(x[..., None]), (2,), (1,), "SAME")
        return x.sum(-1)


FORMS = {
    "dense": (lambda rngs: nnx.Linear(6, 6, rngs=rngs), "examples"),
    "layer norm": (lambda rngs: nnx.LayerNorm(6, rngs=rngs), "examples"),
    "group norm": (lambda rngs: nnx.GroupNorm(6, 3, rngs=rngs), "examples"),
    "dropout": (lambda rngs: nnx.Dropout(0.5, rngs=rngs), "examples"),
    "attention with dropout": (Attention, "examples"),
    "convolution": (Convolution, "examples"),
    "recomputed": (lambda rngs: nnx.Sequential(_Remat(rngs)), "examples"),
    "BatchNorm": (lambda rngs: nnx.BatchNorm(6, rngs=rngs), "batch"),
    "BatchNorm, dropout": (
        lambda rngs: nnx.Sequential(
            nnx.BatchNorm(6, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)
        ),
        "rows",
    ),
    "a norm of one's own": (OwnNorm, "batch"),
    "statistics of one's own": (OwnMean, "batch"),
}


class _Remat(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(6, 6, rngs=rngs)

    @nnx.remat
    def __call__(self, x):
        return nnx.gelu(self.dense(x))


@pytest.mark.parametrize(("make", "form"), FORMS.values(), ids=FORMS)
def test_the_form_follows_from_the_model(make, form, forms):
    with jax.numpy_dtype_promotion("standard"):  # Flax promotes by itself.
        info = one_step(WithLayer(nnx.Rngs(0), make))
    assert forms == [form]
    assert float(info.perturbation_norm) > 0.09


def contrastive(model, batch):
    z = model(batch["x"])
    return jax.vmap(cross_entropy)(z @ z.T, jnp.arange(len(z)))


def test_a_loss_that_compares_rows_is_run_as_it_is(forms):
    with pytest.warns(UserWarning, match="compares rows of the batch"):
        one_step(dense(nnx.Rngs(0)), ksam_jax.nnx.loss(contrastive))
    one_step(dense(nnx.Rngs(0)), ksam_jax.nnx.loss(contrastive), "sam")
    assert forms == ["batch", "batch"]


class Opaque(nnx.Module):
    """Rows are lost from sight in it, though they don't meet."""

    def __init__(self, rngs):
        self.dense = dense(rngs)

    def __call__(self, x):
        pieces = jnp.fft.irfft(jnp.fft.rfft(x.reshape(2, -1), axis=0), n=2, axis=0)
        return self.dense(pieces.reshape(x.shape))


def test_what_can_t_be_seen_is_said_in_one_line(forms):
    with pytest.warns(UserWarning, match=r"can't be seen.*pass per_example=True") as found:
        one_step(Opaque(nnx.Rngs(0)))
    assert len(found) == 1
    assert found[0].filename == __file__
    one_step(Opaque(nnx.Rngs(0)), ksam_jax.nnx.loss(losses_of, per_example=False))
    assert forms == ["batch", "batch"]


def test_what_the_user_says_of_the_model_goes(forms):
    ours, mine = dense(nnx.Rngs(0)), dense(nnx.Rngs(0))
    one_step(ours)
    one_step(mine, ksam_jax.nnx.loss(losses_of, per_example=False))
    assert forms == ["examples", "batch"]
    assert_close(weights_of(ours), weights_of(mine))


# Streams.


class Shared(nnx.Module):
    """Two layers of dropout that draw from one stream."""

    def __init__(self, rngs):
        self.rngs = rngs.dropout.fork()
        self.drop = nnx.Dropout(0.5)
        self.dense = dense(rngs)

    def __call__(self, x):
        x = self.drop(x, rngs=self.rngs)
        return self.drop(self.dense(x), rngs=self.rngs)


def test_a_stream_moves_on_by_as_much_as_in_an_ordinary_pass():
    ours, plain = Shared(nnx.Rngs(0)), Shared(nnx.Rngs(0))
    trained(ours, optimizer_of(ours))
    for batch in BATCHES:
        plain(batch["x"])
    assert int(ours.rngs.count[...]) == int(plain.rngs.count[...]) == 6
    assert_close(nnx.state(ours, nnx.RngKey), nnx.state(plain, nnx.RngKey), 0, 0)


def test_layers_draw_masks_of_their_own(forms):
    class Both(nnx.Module):
        def __init__(self, rngs):
            self.one, self.two = nnx.Dropout(0.5, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)
            self.scale = nnx.Param(jnp.ones(()))

        def __call__(self, x):
            ones = jnp.ones((len(x), 64)) + 0 * x[:, :1]
            return self.scale * jnp.stack([self.one(ones), self.two(ones)], 1)

    def losses(model, batch):
        kept = model(batch["x"])
        return jnp.mean(kept, (1, 2)), kept

    loss = ksam_jax.nnx.loss(losses, has_aux=True)
    _, kept = one_step(Both(nnx.Rngs(0)), loss)
    assert forms == ["examples"]
    rows = {tuple(row) for row in np.asarray(kept).reshape(-1, 64)}
    assert len(rows) == 2 * N


class Block(nnx.Module):
    def __init__(self, rngs, has_norm):
        self.dense = dense(rngs)
        self.norm = nnx.BatchNorm(3, momentum=0.7, rngs=rngs) if has_norm else None
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        x = self.dense(x)
        return nnx.tanh(self.dropout(x if self.norm is None else self.norm(x)))


class Stacked(nnx.Module):
    """Layers along an axis of their weights, run by `nnx.scan`."""

    blocks: Any

    def __init__(self, rngs, has_norm=False):
        @nnx.split_rngs(splits=2)
        @nnx.vmap(in_axes=0, out_axes=0)
        def make(rngs):
            return Block(rngs, has_norm)

        self.blocks = make(rngs)

    def __call__(self, x):
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def run(x, block):
            return block(x)

        return run(x, self.blocks)


def unstacked_losses(weights, batch, masks):
    """The same written out, without BatchNorm."""
    x = batch["x"]
    for i, mask in enumerate(masks):
        dense = jax.tree.map(lambda leaf, i=i: leaf[i], weights["blocks"]["dense"])
        x = jnp.where(mask, (x @ dense["kernel"] + dense["bias"]) / 0.5, 0.0)
        x = jnp.tanh(x)
    return jax.vmap(cross_entropy)(x, batch["y"])


def test_stacked_layers_draw_from_keys_of_their_own(forms):
    model = Stacked(nnx.Rngs(0))
    weights, stream = jax.tree.map(jnp.copy, weights_of(model)), model.blocks.dropout.rngs

    def masks(key):
        keys = jax.random.split(jax.random.fold_in(key, 0), N)

        def draw(key):
            return jax.random.bernoulli(jax.random.fold_in(key, 0), 0.5, (1, 3))[0]

        return jax.vmap(draw)(keys)

    drawn = [masks(key) for key in stream.key[...]]
    gradient = jax.grad(lambda w: unstacked_losses(w, BATCHES[0], drawn).mean())
    up = gradient(weights)
    length = np.sqrt(sum(float((x**2).sum()) for x in jax.tree.leaves(up)))
    there = jax.tree.map(lambda w, g: w + 0.1 / length * g, weights, up)
    expected = jax.tree.map(lambda w, g: w - 0.2 * g, weights, gradient(there))
    one_step(model, method="sam")
    assert forms == ["examples"]
    assert_close(weights_of(model), expected, 3e-6, 3e-6)
    assert stream.count[...].tolist() == [1, 1]


def test_stacked_batchnorm_gets_its_statistics_back(forms):
    model, plain = Stacked(nnx.Rngs(0), True), Stacked(nnx.Rngs(0), True)
    model.blocks.dropout.rate = plain.blocks.dropout.rate = 1e-9
    plain(BATCHES[0]["x"])
    one_step(model)
    assert forms == ["rows"]
    found, expected = (nnx.state(x, nnx.BatchStat) for x in (model, plain))
    assert_close(found, expected, 1e-6, 1e-6)


# What else a model writes.


class Counting(nnx.Module):
    def __init__(self, rngs):
        self.dense, self.calls = dense(rngs), nnx.Variable(jnp.array(0))

    def __call__(self, x):
        self.calls[...] += 1
        return self.dense(x)


def test_what_a_model_counts_is_counted_once_a_step(forms):
    model = Counting(nnx.Rngs(0))
    trained(model, optimizer_of(model))
    assert forms == ["examples"]
    assert int(model.calls[...]) == 3


def test_what_is_counted_beside_batchnorm_and_dropout_leaves_the_rows_their_keys(forms):
    class All(Counting):
        def __init__(self, rngs):
            super().__init__(rngs)
            self.net = Network(rngs, True, True)

        def __call__(self, x):
            return self.net(super().__call__(x))

    model = All(nnx.Rngs(0))
    trained(model, optimizer_of(model))
    assert forms == ["rows"]
    assert int(model.calls[...]) == int(model.net.dropout.rngs.count[...]) == 3


class Sowing(nnx.Module):
    def __init__(self, rngs):
        self.dense = dense(rngs)

    def __call__(self, x):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            self.sow(nnx.Intermediate, "seen", x)
        return self.dense(x)


def test_what_is_sown_stays_in_the_copies(forms):
    model = Sowing(nnx.Rngs(0))
    one_step(model)
    assert forms == ["examples"]
    assert not hasattr(model, "seen")


class Writing(nnx.Module):
    """Writes what is trained, as `nnx.SpectralNorm` does."""

    def __init__(self, rngs):
        self.dense = dense(rngs)

    def __call__(self, x):
        self.dense.kernel[...] = self.dense.kernel[...] / 2
        return self.dense(x)


def test_a_step_goes_on_from_the_weights_that_the_clean_pass_wrote(forms):
    model = Writing(nnx.Rngs(0))
    w = jax.tree.map(jnp.copy, weights_of(model)["dense"])

    def mean_loss(w):
        logits = BATCHES[0]["x"] @ (w["kernel"] / 2) + w["bias"]
        return jax.vmap(cross_entropy)(logits, BATCHES[0]["y"]).mean()

    u = jax.grad(mean_loss)(by_hand.moved(w, jax.grad(mean_loss)(w), 0.1))
    expected = {"kernel": w["kernel"] / 2, "bias": w["bias"]}
    expected = jax.tree.map(lambda w, u: w - by_hand.RATE * u, expected, u)
    one_step(model, method="sam")
    assert forms == ["examples"]
    assert_close(weights_of(model)["dense"], expected)


class Spectral(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.SpectralNorm(dense(rngs), rngs=rngs)

    def __call__(self, x):
        return self.norm(x, update_stats=True)


def test_spectral_norm_is_updated_once_a_step():
    model, plain = Spectral(nnx.Rngs(0)), Spectral(nnx.Rngs(0))
    plain(BATCHES[0]["x"])
    one_step(model)
    found, expected = (nnx.state(x, nnx.BatchStat) for x in (model, plain))
    assert jax.tree.leaves(found)
    assert_close(found, expected, 1e-6, 1e-6)


class Masked(nnx.Module):
    """BatchNorm of those rows that a mask says, and dropout."""

    def __init__(self, rngs):
        self.dense, self.norm = dense(rngs), nnx.BatchNorm(3, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        x = self.norm(self.dense(x), mask=x[:, :1] > 0)
        return self.dropout(x)


def test_rows_that_count_differently_in_batchnorm_are_run_together(forms):
    model, plain = Masked(nnx.Rngs(0)), Masked(nnx.Rngs(0))
    plain(BATCHES[0]["x"])
    one_step(model, method="sam")
    assert forms == ["batch"]
    assert_close(nnx.state(model.norm, nnx.BatchStat), nnx.state(plain.norm, nnx.BatchStat))
    counts: Any = nnx.state(model, nnx.RngCount)
    assert int(counts["dropout"]["rngs"]["count"][...]) == 1


# aux


@pytest.mark.parametrize(
    ("norm", "dropout"), [(False, False), (False, True), (True, False), (True, True)]
)
def test_aux_is_that_of_the_clean_pass(norm, dropout):
    def with_logits(model, batch):
        logits = model(batch["x"])
        return jax.vmap(cross_entropy)(logits, batch["y"]), {"logits": logits}

    model, loss = (
        Network(nnx.Rngs(0), norm, dropout),
        ksam_jax.nnx.loss(with_logits, has_aux=True),
    )
    copy = nnx.clone(model)
    info, aux = one_step(model, loss)
    losses = jax.vmap(cross_entropy)(aux["logits"], BATCHES[0]["y"])
    assert abs(float(losses.mean() - info.loss)) < 1e-6
    if not dropout:
        assert_close(aux["logits"], copy(BATCHES[0]["x"]))


def test_aux_of_the_batch_is_given_as_it_is(forms):
    def with_mean(model, batch):
        losses = losses_of(model, batch)
        return losses, losses.mean()

    model = dense(nnx.Rngs(0))
    info, mean = one_step(model, ksam_jax.nnx.loss(with_mean, has_aux=True))
    assert forms == ["batch"]
    assert_close(mean, info.loss)


def test_metrics_take_what_a_step_returns():
    model = dense(nnx.Rngs(0))
    average = nnx.metrics.Average("loss")
    optimizer, metrics = optimizer_of(model), nnx.MultiMetric(loss=average)

    @nnx.jit
    def train_step(model, optimizer, metrics, batch):
        metrics.update(loss=LOSS.update(model, optimizer, batch).loss)

    for batch in BATCHES:
        train_step(model, optimizer, metrics, batch)
    assert np.isfinite(average.total[...])
    assert int(average.count[...]) == 3


# Batches of one, and selections that look into the batch.


def test_a_batch_of_one_example_is_seen_like_any_other(forms):
    one = [jax.tree.map(lambda x: x[:1], BATCHES[0])]
    for has_norm in (False, True):
        model = Network(nnx.Rngs(0), has_norm, True)
        trained(model, optimizer_of(model, "sam"), batches=one)
        assert int(model.dropout.rngs.count[...]) == 1
    assert forms == ["examples", "rows"]


@pytest.mark.parametrize("has_dropout", [False, True])
def test_selections_find_what_they_look_for_in_the_batch(has_dropout):
    model = Network(nnx.Rngs(0), has_dropout=has_dropout)
    remembered = ksam_jax.highest_remembered_loss(4, num_examples=N, index="index")
    perturbation = ksam_jax.scale_to_radius(0.1)
    method = ksam_jax.sharpness_aware(perturbation, ascent=remembered, descent=remembered)
    optimizer = nnx.Optimizer(model, optax.chain(method, optax.sgd(0.1)), wrt=nnx.Param)
    batch = BATCHES[0] | {"index": jnp.arange(N)}
    found = trained(model, optimizer, batches=[batch] * 3)
    assert float(found[-1].perturbation_norm) > 0.09
