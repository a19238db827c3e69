"""What devices send each other, how much each computes and keeps: from compiled HLO."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from problems import QUICK, on_one_worker

import ksam_jax
from experiments.costs.devices.collectives import Collective, collectives, in_hlo

DEVICES, EACH, TOKENS, WIDTH = 8, 32, 16, 16
N = DEVICES * EACH
BASE = optax.sgd(0.1, momentum=0.9)


def shapes(width: int = WIDTH) -> Any:
    keys = jax.random.split(jax.random.key(0), 3)
    sizes = {"in": (4, width), "hidden": (width, width), "out": (width, 3)}
    return {
        name: jax.random.normal(key, size) / size[0] ** 0.5
        for key, (name, size) in zip(keys, sizes.items(), strict=True)
    }


def batch(n: int = N) -> Any:
    rng = np.random.default_rng(0)
    return {
        "x": rng.normal(size=(n, TOKENS, 4)).astype(jnp.result_type(float)),
        "y": rng.integers(0, 3, n).astype(np.int32),
    }


def example_loss(params: Any, example: Any) -> Any:
    hidden = jnp.tanh(example["x"] @ params["in"])
    hidden = jnp.tanh(hidden @ params["hidden"])
    logits = jnp.mean(hidden @ params["out"], axis=0)
    return jax.nn.logsumexp(logits) - logits[example["y"]]


LOSS = ksam_jax.per_example(example_loss, keep="all")


@functools.partial(ksam_jax.per_example, keep="all")
def fsdp_loss(params: Any, example: Any) -> Any:
    """The same with sharded weights, gathered where they are used."""
    params = jax.tree.map(lambda w: lax.with_sharding_constraint(w, P()), params)
    return example_loss(params, example)


def convolved(kernel: Any, batch: Any) -> Any:
    """Losses of a convolution, whose aux has floats and what isn't an array."""
    out = lax.conv_general_dilated(
        batch, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    aux = {"mean": jnp.mean(out), "size": batch.shape[0], "flag": True}
    return jnp.mean(jnp.tanh(out) ** 2, axis=(1, 2, 3)), aux


def sgd(axis_name: Any = None) -> Any:
    """As anyone writes it, who reports the loss."""

    def step(params: Any, state: Any, batch: Any) -> Any:
        def loss(p: Any) -> Any:
            return jnp.mean(LOSS(p, batch))

        if axis_name is None:
            told = jax.value_and_grad(loss)(params)
        else:
            local = jax.lax.pcast(params, axis_name, to="varying")
            told = jax.lax.pmean(jax.value_and_grad(loss)(local), axis_name)
        updates, state = BASE.update(told[1], state, params)
        return optax.apply_updates(params, updates), state, told[0]

    return BASE, step


def ours(method: Any, loss_fn: Any = LOSS, **common: Any) -> Any:
    tx: Any = optax.chain(method(**common), BASE)

    def step(params: Any, state: Any, batch: Any) -> Any:
        updates, state = tx.update(None, state, params, loss_fn=loss_fn, batch=batch)
        return (
            optax.apply_updates(params, updates),
            state,
            ksam_jax.get_info(state).perturbed_loss,
        )

    return tx, step


def mesh() -> Any:
    return jax.make_mesh((DEVICES,), ("data",), axis_types=(AxisType.Auto,))


def in_shard_map(made: Any) -> Any:
    tx, step = made
    specs = (P(), P(), P("data"))
    spread = jax.shard_map(step, mesh=mesh(), in_specs=specs, out_specs=P())
    params = shapes()
    return jax.jit(spread).lower(params, tx.init(params), batch()).compile(QUICK)


def in_jit(made: Any, place: Any = lambda x: P(), width: int = WIDTH, n: int = N) -> Any:
    """Compiled for sharded batches, weights and state living where `place` says."""
    tx, step = made
    params = shapes(width)
    given = (params, jax.eval_shape(tx.init, params))
    where = jax.tree.map(lambda x: NamedSharding(mesh(), place(x)), given)
    rows, everywhere = NamedSharding(mesh(), P("data")), NamedSharding(mesh(), P())
    program = jax.jit(step, in_shardings=(*where, rows), out_shardings=(*where, everywhere))
    with jax.set_mesh(mesh()):
        return program.lower(*given, batch(n)).compile(QUICK)


@functools.cache
def of_devices(name: str, sync: bool) -> Any:
    made = ours(METHODS[name], axis_name="data", sync_ascent=sync)
    return in_shard_map(made)


@functools.cache
def of_groups(name: str) -> Any:
    return in_jit(ours(METHODS[name], groups=DEVICES))


def on_one(made: Any) -> Any:
    tx, step = made
    params = shapes()
    return jax.jit(step).lower(params, tx.init(params), batch()).compile(QUICK)


def flops(compiled: Any) -> float:
    return float(compiled.cost_analysis()["flops"])


WEIGHTS = sum(leaf.size for leaf in jax.tree.leaves(shapes()))
METHODS = {
    "sam": ksam_jax.sam,
    "k_sam": functools.partial(ksam_jax.k_sam, k=0.25),
    "esam": functools.partial(ksam_jax.esam, gamma=0.5),
    "k_momentum_sam": functools.partial(ksam_jax.k_momentum_sam, k=0.25),
}

EACH_METHOD = [on_one_worker(name) for name in METHODS]


def sent(compiled: Any) -> list[Collective]:
    """The collectives without those of a few numbers, which the info is."""
    return [c for c in collectives(compiled) if c.elements > 16]


def is_gradient(collective: Collective) -> bool:
    """A reduction of all weights, with at most the info's eight numbers besides."""
    extra = collective.elements - WEIGHTS
    return collective.kind == "all-reduce" and 0 <= extra <= 8


# ------------------------------------------------------------------ the parser


def test_collectives_are_read_from_hlo():
    text = """
      %x = (f32[3,5]{1,0}, bf16[]) all-reduce(%a, %b), channel_id=1
      ROOT %y = pred[8]{0} all-gather(%c), dimensions={0}
      %z = (f32[2]{0}, f32[16]{0}) all-gather-start(%d), dimensions={0}
      %w = f32[16]{0} all-gather-done(%z)
      %v = f32[3]{0} get-tuple-element(%all-reduce), index=0
    """
    assert in_hlo(text) == [
        Collective("all-reduce", 2, 16, 62),
        Collective("all-gather", 1, 8, 8),
        Collective("all-gather", 1, 16, 64),
    ]


# --------------------------------------------------------- replicated parameters


def test_sgd_reduces_its_gradient_once():
    (only,) = collectives(in_shard_map(sgd("data")))
    assert only == Collective("all-reduce", 4, WEIGHTS + 1, 4 * (WEIGHTS + 1))


@pytest.mark.parametrize("name", EACH_METHOD)
def test_devices_that_climb_apart_send_what_sgd_sends(name):
    (only,) = collectives(of_devices(name, False))
    # The gradient, and the eight numbers of the info in the place of SGD's loss.
    assert only == Collective("all-reduce", 4, WEIGHTS + 8, 4 * (WEIGHTS + 8))


@pytest.mark.parametrize("name", EACH_METHOD)
def test_a_synchronized_climb_costs_one_all_reduce_more(name):
    found = collectives(of_devices(name, True))
    descent = Collective("all-reduce", 4, WEIGHTS + 5, 4 * (WEIGHTS + 5))
    ascent = Collective("all-reduce", 3, WEIGHTS, 4 * WEIGHTS)
    # A climb along past steps is synchronized already.
    assert found == ([descent] if name == "k_momentum_sam" else [ascent, descent])


@pytest.mark.parametrize("name", EACH_METHOD[1:])
def test_selecting_in_groups_gathers_the_losses_and_nothing_else(name):
    found = sent(of_groups(name))
    gathered = [c for c in found if c.kind != "all-reduce"]
    assert [c.kind for c in gathered] == ["all-gather"]
    assert gathered[0].elements <= N
    reduced = [c for c in found if c.kind == "all-reduce"]
    assert len(reduced) == (1 if name == "k_momentum_sam" else 2)
    assert all(is_gradient(c) for c in reduced)


def test_groups_that_climb_apart_on_a_mesh_send_what_sgd_sends():
    made = ours(METHODS["k_sam"], groups=DEVICES, sync_ascent=False)
    (only,) = collectives(in_jit(made))
    assert is_gradient(only)


def convolving(loss_fn: Any) -> list[Collective]:
    """What groups that climb apart send for a convolution of their own weights."""
    tx: Any = ksam_jax.k_sam(k=0.5, groups=DEVICES, sync_ascent=False)

    def step(kernel: Any, batch: Any) -> Any:
        gradient, state = tx.update(
            None, tx.init(kernel), kernel, loss_fn=loss_fn, batch=batch, has_aux=True
        )
        return gradient, ksam_jax.take_aux(state)[0]["mean"]

    places = NamedSharding(mesh(), P()), NamedSharding(mesh(), P("data"))
    program = jax.jit(step, in_shardings=places)
    with jax.set_mesh(mesh()):
        lowered = program.lower(
            jax.ShapeDtypeStruct((3, 3, 2, 6), jnp.float32),
            jax.ShapeDtypeStruct((16, 4, 4, 2), jnp.float32),
        )
        return collectives(lowered.compile(QUICK))


def test_groups_that_climb_apart_keep_a_convolution_on_its_device():
    (only,) = convolving(convolved)
    # The kernel and the mean of the aux; nobody reads the info here.
    assert (only.kind, only.elements) == ("all-reduce", 108 + 1)


def test_a_loss_that_names_the_mesh_is_told_what_that_costs():
    def constrained(kernel: Any, batch: Any) -> Any:
        rows = NamedSharding(mesh(), P("data"))
        return convolved(kernel, lax.with_sharding_constraint(batch, rows))

    match = r"k_sam\(sync_ascent=False, groups=8\).*'data', so XLA decides"
    with pytest.warns(UserWarning, match=match):
        found = convolving(constrained)
    assert {c.kind for c in found} > {"all-reduce"}


@pytest.mark.parametrize("sync", [True, False])
def test_microbatches_send_nothing_more_on_devices(sync):
    made = ours(METHODS["k_sam"], axis_name="data", sync_ascent=sync, num_microbatches=4)
    assert collectives(in_shard_map(made)) == collectives(of_devices("k_sam", sync))


def test_microbatches_under_jit_reduce_the_gradient_of_each_part():
    """XLA reduces inside the loop: what is counted is the loop's trips as well."""
    made = ours(METHODS["k_sam"], groups=DEVICES, num_microbatches=4)
    reduced = [c for c in sent(in_jit(made)) if c.kind == "all-reduce"]
    assert sum(c.elements >= WEIGHTS for c in reduced) == 2 * 4


@pytest.mark.parametrize("name", EACH_METHOD)
def test_each_device_computes_its_part(name):
    """To 3% of the whole divided by the devices: weights are updated on each of them."""
    alone = flops(on_one(ours(METHODS[name]))) / DEVICES
    for sync in (True, False):
        assert flops(of_devices(name, sync)) == pytest.approx(alone, rel=0.03)
    assert flops(of_groups(name)) == pytest.approx(alone, rel=0.03)


def test_one_selection_from_the_whole_batch_repeats_the_work_of_the_chosen():
    """Why there are groups: otherwise every device runs all of the chosen examples."""
    alone = flops(on_one(ours(METHODS["k_sam"]))) / DEVICES
    assert flops(in_jit(ours(METHODS["k_sam"]))) > 2 * alone


# ------------------------------------------------------------- sharded parameters

FSDP_WIDTH, FSDP_N = 64, 1024


def spread(x: Any) -> P:
    """FSDP: every weight and buffer over its longest axis that the devices divide."""
    longest = sorted(range(x.ndim), key=lambda i: -x.shape[i])
    axis = next((i for i in longest if x.shape[i] % DEVICES == 0), None)
    return P() if axis is None else P(*(None,) * axis, "data")


def fsdp(made: Any) -> Any:
    return in_jit(made, spread, FSDP_WIDTH, FSDP_N)


@pytest.mark.parametrize(("name", "passes"), [("sam", 4), ("k_sam", 4)])
def test_sharded_weights_are_gathered_once_a_pass_and_no_more(name, passes):
    common = {} if name == "sam" else {"groups": DEVICES}
    found = sent(fsdp(ours(METHODS[name], fsdp_loss, **common)))
    weights = [leaf.size for leaf in jax.tree.leaves(shapes(FSDP_WIDTH))]
    gathered = [c for c in found if c.kind == "all-gather"]
    losses = [c for c in gathered if c.elements == FSDP_N]
    assert len(losses) == (name == "k_sam")
    of_weights = [c for c in gathered if c.elements != FSDP_N]
    assert all(c.elements in weights for c in of_weights)
    assert sum(c.elements for c in of_weights) <= passes * sum(weights)
    assert {c.kind for c in found} == {"all-gather", "all-reduce"}


def test_a_device_keeps_its_part_of_sharded_weights_and_state():
    made = ours(METHODS["k_sam"], fsdp_loss, groups=DEVICES)
    whole: Any = in_jit(made, width=FSDP_WIDTH, n=FSDP_N).memory_analysis()
    parts: Any = fsdp(made).memory_analysis()
    rows = sum(leaf.nbytes for leaf in jax.tree.leaves(batch(FSDP_N))) / DEVICES
    kept = whole.argument_size_in_bytes - rows
    assert parts.argument_size_in_bytes - rows == pytest.approx(kept / DEVICES, rel=0.05)


@pytest.mark.parametrize(
    ("name", "common"),
    [
        ("k_sam", {"groups": DEVICES}),
        *(
            pytest.param(name, common, marks=pytest.mark.slow)
            for name, common in (
                ("k_sam", {"groups": DEVICES, "sync_ascent": False}),
                ("f_sam", {}),
                ("esam", {"groups": DEVICES}),
                ("k_momentum_sam", {"groups": DEVICES, "num_microbatches": 2}),
            )
        ),
    ],
)
def test_sharded_weights_train_as_replicated_ones_and_stay_sharded(name, common):
    tx, step = ours(METHODS.get(name, ksam_jax.f_sam), fsdp_loss, **common)

    def trained(place: Any) -> Any:
        params = shapes()
        given = (params, tx.init(params))
        where = jax.tree.map(lambda x: NamedSharding(mesh(), place(x)), given)
        rows = jax.device_put(batch(), NamedSharding(mesh(), P("data")))

        def run(carry: Any, rows: Any) -> Any:
            return lax.scan(lambda c, _: (step(*c, rows)[:2], None), carry, length=20)[0]

        compiled = jax.jit(run, out_shardings=where, compiler_options=QUICK)
        with jax.set_mesh(mesh()):
            return compiled(jax.device_put(given, where), rows)

    with jax.enable_x64(True):
        parts, whole = trained(spread), trained(lambda x: P())
    for a, b in zip(jax.tree.leaves(parts), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
        assert a.sharding.spec == spread(b)
    assert any(leaf.sharding.spec != P() for leaf in jax.tree.leaves(parts))
