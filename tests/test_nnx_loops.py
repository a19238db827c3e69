"""`ksam_jax.nnx` in training loops of all forms, and what it says of wrong arguments."""

import functools
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from by_hand import BATCHES
from flax import nnx
from problems import assert_close, cross_entropy, stacked
from test_nnx import LOSS, Network, chain, losses_of, optimizer_of, trained

import ksam_jax
import ksam_jax.nnx

pytestmark = pytest.mark.xdist_group("nnx")


def both():
    """A model that has everything, and its optimizer."""
    model = Network(nnx.Rngs(5), has_norm=True, has_dropout=True)
    return model, optimizer_of(model)


@functools.cache
def expected():
    pair = both()
    trained(*pair)
    return nnx.state(pair)


def assert_same_end(pair):
    assert_close(nnx.state(pair), expected(), 1e-6, 1e-6)


def test_outside_of_jit():
    model, optimizer = both()
    for batch in BATCHES:
        LOSS.update(model, optimizer, batch)
    assert_same_end((model, optimizer))


def test_donation_and_one_trace_for_all_steps():
    traces, (model, optimizer) = [], both()

    @nnx.jit(donate_argnums=(0, 1))
    def train_step(model, optimizer, batch):
        traces.append(batch)
        LOSS.update(model, optimizer, batch)

    for batch in BATCHES:
        train_step(model, optimizer, batch)
    assert len(traces) == 1
    assert_same_end((model, optimizer))


def test_jax_jit_of_split_and_merged_models():
    graphdef, state = nnx.split(both())

    @jax.jit
    def train_step(state, batch):
        model, optimizer = nnx.merge(graphdef, state)
        info = LOSS.update(model, optimizer, batch)
        return nnx.state((model, optimizer)), info.loss

    for batch in BATCHES:
        state, _ = train_step(state, batch)
    assert_same_end(nnx.merge(graphdef, state))


def test_a_scan_over_steps():
    pair = both()

    @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=(nnx.Carry, 0))
    def train(pair, batch):
        model, optimizer = pair
        return pair, LOSS.update(model, optimizer, batch)

    _, infos = nnx.jit(train)(pair, stacked(BATCHES))
    assert infos.loss.shape == (3,)
    assert_same_end(pair)


def test_a_checkpoint_in_the_middle(tmp_path):
    pair, fresh = both(), both()
    trained(*pair, batches=BATCHES[:2])
    nnx.update(fresh, jax.tree.map(jnp.zeros_like, nnx.state(fresh, nnx.Param)))
    with ocp.StandardCheckpointer() as checkpointer:
        kept = nnx.state(pair, nnx.Not(nnx.RngKey))
        checkpointer.save(tmp_path / "step", nnx.to_pure_dict(kept))
        checkpointer.wait_until_finished()
        like = nnx.state(fresh, nnx.Not(nnx.RngKey))
        found = checkpointer.restore(tmp_path / "step", nnx.to_pure_dict(like))
    nnx.replace_by_pure_dict(like, found)
    nnx.update(fresh, like)
    trained(*fresh, batches=BATCHES[2:])
    assert_same_end(fresh)


@pytest.mark.parametrize("has_dropout", [False, True])
def test_microbatches_are_the_joined_batch(has_dropout):
    ends: list[Any] = []
    for parts in (1, 5):
        model = Network(nnx.Rngs(5), has_dropout=has_dropout)
        method = ksam_jax.k_sam(rho=0.1, k=4, num_microbatches=parts)
        tx = optax.chain(method, optax.sgd(0.1))
        trained(model, nnx.Optimizer(model, tx, wrt=nnx.Param))
        ends.append(nnx.state(model))
    assert_close(ends[0], ends[1], 1e-6, 1e-6)


def test_methods_that_take_turns_and_optimizers_that_look_at_the_loss():
    methods = [ksam_jax.mean_gradient(), ksam_jax.k_sam(k=4)]
    joined = ksam_jax.join_methods(methods, [2])
    model = Network(nnx.Rngs(5), has_norm=True, has_dropout=True)
    tx = ksam_jax.hand_on_loss(joined, optax.polyak_sgd())
    infos = trained(model, nnx.Optimizer(model, tx, wrt=nnx.Param))
    climbs = [float(info.perturbation_norm) > 0 for info in infos]
    assert climbs == [False, False, True]


def test_extra_arguments_go_to_the_chain():
    model, optimizer = both()
    other, its = both()
    LOSS.update(model, optimizer, BATCHES[0], loss_scale=jnp.float32(1024.0))
    LOSS.update(other, its, BATCHES[0])
    assert_close(nnx.state(model), nnx.state(other), 1e-6, 1e-6)


@pytest.mark.parametrize("per_example", [True, False])
def test_each_device_has_masks_of_its_own(per_example):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    P = jax.sharding.PartitionSpec

    class Masks(nnx.Module):
        def __init__(self, rngs):
            self.dropout, self.w = nnx.Dropout(0.5, rngs=rngs), nnx.Param(jnp.ones(()))

        def __call__(self, x):
            return self.dropout(self.w * jnp.ones((len(x), 64)) + 0 * x[:, :1])

    def losses(model, batch):
        kept = model(batch["x"])
        return kept.mean(1), kept

    model = Masks(nnx.Rngs(0))
    tx = optax.chain(ksam_jax.sam(axis_name="data"), optax.sgd(0.1))
    graphdef, state = nnx.split((model, nnx.Optimizer(model, tx, wrt=nnx.Param)))
    loss = ksam_jax.nnx.loss(losses, has_aux=True, per_example=per_example)

    def step(state, batch):
        model, optimizer = nnx.merge(graphdef, state)
        _, kept = loss.update(model, optimizer, batch)
        return nnx.state((model, optimizer)), kept

    spread = jax.shard_map(
        step, mesh=mesh, in_specs=(P(), P("data")), out_specs=(P(), P("data"))
    )
    state, kept = jax.jit(spread)(state, {"x": BATCHES[0]["x"]})
    if per_example:
        assert len({tuple(row) for row in np.asarray(kept)}) == len(kept)
    else:  # aux of a batch is the mean over the devices: of different masks
        assert set(np.unique(np.asarray(kept))) == {0.0, 1.0, 2.0}


# Wrong arguments.


@pytest.fixture
def types_unchecked():
    """As outside of the tests, where the checker of types isn't there."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


LOSS_OF: Any = ksam_jax.nnx.loss


def first(model, optimizer, batch=BATCHES[0], loss=LOSS):
    return loss.update(model, optimizer, batch)


def plain_optimizer(model):
    return nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)


def pair_of_losses(model, batch):
    return losses_of(model, batch), 0


WRONG = {
    "optimizer": (
        lambda m: first(m, chain("k_sam")),
        TypeError,
        r"optimizer must be an nnx\.O",
    ),
    "order": (
        lambda m: first(optimizer_of(m), m),
        TypeError,
        r"optimizer must be an nnx\.Opt",
    ),
    "model": (
        lambda m: first(nnx.state(m), optimizer_of(m)),
        TypeError,
        r"model must be an nnx",
    ),
    "no method": (
        lambda m: first(m, plain_optimizer(m)),
        ValueError,
        r"exactly one.*found 0; pass",
    ),
    "mean": (
        lambda m: first(
            m, optimizer_of(m), loss=ksam_jax.nnx.loss(lambda *x: losses_of(*x).mean())
        ),
        ValueError,
        r"nnx\.loss\(function\): function must.*\(10,\); got shape \(\); remove the mean",
    ),
    "integers": (
        lambda m: first(m, optimizer_of(m), loss=ksam_jax.nnx.loss(lambda m, b: b["y"])),
        TypeError,
        r"real floating-point; got dtype int32; cast it",
    ),
    "no array": (
        lambda m: first(m, optimizer_of(m), loss=ksam_jax.nnx.loss(lambda m, b: "x")),
        TypeError,
        r"function must return one loss per example.*got str",
    ),
    "unasked aux": (
        lambda m: first(m, optimizer_of(m), loss=ksam_jax.nnx.loss(pair_of_losses)),
        TypeError,
        r"got a tuple; pass has_aux=True",
    ),
    "no aux": (
        lambda m: first(
            m, optimizer_of(m), loss=ksam_jax.nnx.loss(losses_of, has_aux=True)
        ),
        TypeError,
        r"has_aux=True\): function must return \(losses, aux\)",
    ),
    "arguments": (
        lambda m: first(m, optimizer_of(m), loss=LOSS_OF(lambda model: 0)),
        TypeError,
        r"function must be a function that can be called with the model and a batch",
    ),
    "batch": (
        lambda m: first(
            m, optimizer_of(m), batch={"x": jnp.ones((3, 3)), "y": jnp.ones(4)}
        ),
        ValueError,
        r"loss\.update\(batch=\.\.\.\): the leaves of batch must be arrays with the same",
    ),
    "wrt": (
        lambda m: first(m, optimizer_of(m, wrt=nnx.LoRAParam)),
        ValueError,
        r"params",
    ),
}


@pytest.mark.parametrize(("call", "kind", "match"), WRONG.values(), ids=WRONG)
def test_wrong_arguments_are_named(call, kind, match):
    with pytest.raises(kind, match=match):
        call(Network(nnx.Rngs(0)))


def test_per_example_can_t_be_asked_of_a_model_with_statistics():
    loss: Any = ksam_jax.nnx.loss(losses_of, per_example=True)
    with pytest.raises(ValueError, match=r"per_example=True\).*norm\.mean, norm\.var"):
        first(*both(), loss=loss)


def test_wrong_arguments_of_loss_are_named(types_unchecked):
    del types_unchecked
    with pytest.raises(
        TypeError, match=r"nnx\.loss\(function=3\): function must be a func"
    ):
        LOSS_OF(3)
    with pytest.raises(ValueError, match="keep must be one of"):
        ksam_jax.nnx.loss(losses_of, keep="some")
    with pytest.raises(TypeError, match="has_aux must be True or False"):
        LOSS_OF(losses_of, has_aux=1)
    with pytest.raises(TypeError, match="per_example must be True or False"):
        LOSS_OF(losses_of, per_example="no")


def test_an_error_of_the_model_comes_out_as_it_is():
    def broken(model, batch):
        return jax.vmap(cross_entropy)(model(batch["x"][:, :2]), batch["y"])

    with pytest.raises(TypeError, match="dot_general"):
        first(*both(), loss=ksam_jax.nnx.loss(broken))


# The core knows no other library.


def run(code):
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_core_imports_no_library_of_models():
    found = run(
        "import sys, ksam_jax\n"
        "print([n for n in ('flax', 'equinox', 'haiku') if n in sys.modules])"
    )
    assert found.stdout.strip() == "[]", found.stderr


@pytest.mark.parametrize(
    ("room", "needs"), [("nnx", "flax"), ("linen", "flax"), ("equinox", "equinox")]
)
def test_without_the_extra_the_import_says_what_to_install(room, needs):
    found = run(
        f"import sys; sys.modules[{needs!r}] = None; import ksam_jax\n"
        f"try:\n    import ksam_jax.{room}\n"
        "except ModuleNotFoundError as error:\n    print(error)"
    )
    assert f"ksam_jax.{room} needs {needs}" in found.stdout, found.stderr
    assert f'pip install "ksam_jax[{room}]"' in found.stdout
