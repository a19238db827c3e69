"""SAM, ASAM, GSAM, F-SAM and LookSAM against pytorch_optimizer 4.1.0, in float64.

Twenty steps of momentum SGD with a new batch in each, on the network of `oracles`, whose
gradient is written by hand. Theirs is also written out here in NumPy, so that what differs
is known and not only its size:

- the norm of a gradient is in float32 there, whatever the weights are in: all else in SAM,
  GSAM and F-SAM is as here;
- ASAM (`SAM(adaptive=True)`) has T = |w| for every tensor, without `eta`;
- LookSAM projects and measures tensor by tensor, not over all weights together, so that it
  agrees if the weights are one tensor, and parts if they are several;
- LookSAM's `step(closure)` computes two gradients in every step.

`make parity` runs this.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from jax.flatten_util import ravel_pytree
from oracles import Batch, Step, Tree, add, mean_gradient, scaled, times
from test_oracles import LEARNING_RATE, MOMENTUM, as_jax, batch_losses, batches, start

import ksam_jax

torch: Any = pytest.importorskip("torch", reason="see `make parity`")
library: Any = pytest.importorskip("pytorch_optimizer", reason="see `make parity`")

STEPS = 20
RHO, ALPHA, SHARE, PERIOD, DECAY = 0.3, 0.4, 0.7, 5, 0.9
SGD = {"lr": LEARNING_RATE, "momentum": MOMENTUM}
NAMES = tuple(start())
TOGETHER, APART = [NAMES], [(name,) for name in NAMES]
TENSORS = pytest.mark.parametrize("tensors", [TOGETHER, APART], ids=["one", "five"])

Tensors = Sequence[Sequence[str]]


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def apart(a: Tree, b: Tree) -> float:
    """The largest difference between two trees' numbers."""
    return max(float(np.max(np.abs(a[name] - b[name]))) for name in NAMES)


# ------------------------------------------------------------------------ ours


class Trained(NamedTuple):
    """The weights after the last step, and how many gradients each step computed."""

    weights: Tree
    gradients: list[int]


def ours(method: Any, tensors: Tensors = APART) -> Trained:
    tx: Any = optax.chain(method, optax.sgd(LEARNING_RATE, momentum=MOMENTUM))
    counted: list[int] = []

    @jax.custom_vjp
    def count(params: Any) -> Any:
        return params

    def forward(params: Any) -> Any:
        return params, None

    def backward(_: None, gradient: Any) -> Any:
        jax.debug.callback(lambda: counted.append(1))
        return (gradient,)

    count.defvjp(forward, backward)
    flat, as_tree = ravel_pytree(as_jax(start()))
    params: Any = flat if tensors is TOGETHER else as_tree(flat)

    def loss_fn(params: Any, batch: Any) -> Any:
        tree = as_tree(params) if tensors is TOGETHER else params
        return batch_losses(count(tree), batch)

    @jax.jit
    def update(state: Any, params: Any, batch: Any) -> Any:
        updates, state = tx.update(None, state, params, loss_fn=loss_fn, batch=batch)
        return optax.apply_updates(params, updates), state

    state, totals = tx.init(params), [0]
    for inputs, labels in batches()[:STEPS]:
        batch = {"x": jnp.asarray(inputs), "y": jnp.asarray(labels)}
        params, state = update(state, params, batch)
        jax.effects_barrier()
        totals.append(len(counted))
    tree = as_tree(params) if tensors is TOGETHER else params
    weights = {name: np.asarray(leaf) for name, leaf in tree.items()}
    return Trained(weights, np.diff(totals).tolist())


# ---------------------------------------------------------------------- theirs


class Network(torch.nn.Module):
    """The network of `oracles`, its weights in one tensor or in five."""

    def __init__(self, tensors: Tensors) -> None:
        super().__init__()
        leaves = [torch.tensor(start()[name]) for name in NAMES]
        self.shapes = [leaf.shape for leaf in leaves]
        if tensors is TOGETHER:
            leaves = [torch.cat([leaf.flatten() for leaf in leaves])]
        self.leaves = torch.nn.ParameterList(leaves)

    def tree(self) -> Any:
        leaves = list(self.leaves)
        if len(leaves) == 1:
            leaves = leaves[0].split([shape.numel() for shape in self.shapes])
        pairs = zip(leaves, self.shapes, strict=True)
        return dict(zip(NAMES, (x.reshape(shape) for x, shape in pairs), strict=True))

    def forward(self, inputs: Any) -> Any:
        w = self.tree()
        hidden = torch.tanh(inputs @ w["w1"] + w["b1"])
        return w["scale"] * (hidden @ w["w2"] + w["b2"])

    def weights(self) -> Tree:
        return {name: leaf.detach().numpy() for name, leaf in self.tree().items()}


class TheirSteps:
    """Counts the gradients of each step; `run` is handed the closure of one step."""

    def __init__(self, tensors: Tensors) -> None:
        self.model, self.gradients = Network(tensors), 0

    def loss(self, outputs: Any, labels: Any) -> Any:
        loss = torch.nn.functional.cross_entropy(outputs, labels)
        loss.register_hook(self.count)
        return loss

    def count(self, _: Any) -> None:
        self.gradients += 1

    def train(self, run: Callable[[Callable[[], Any], Any, Any], None]) -> Trained:
        totals = [0]
        for batch in batches()[:STEPS]:
            x, y = torch.tensor(batch.inputs), torch.tensor(batch.labels).long()

            def closure(x: Any = x, y: Any = y) -> Any:
                self.model.zero_grad()
                loss = self.loss(self.model(x), y)
                loss.backward()
                return loss

            run(closure, x, y)
            totals.append(self.gradients)
        return Trained(self.model.weights(), np.diff(totals).tolist())


def theirs(name: str, tensors: Tensors = APART, **options: Any) -> Trained:
    """As their documentation says: a backward pass, then `step(closure)`."""
    steps = TheirSteps(tensors)
    make = getattr(library, name)
    optimizer = make(steps.model.parameters(), torch.optim.SGD, **SGD, **options)

    def run(closure: Any, x: Any, y: Any) -> None:
        del x, y
        closure()
        optimizer.step(closure)

    return steps.train(run)


def their_gsam(tensors: Tensors) -> Trained:
    class Constant:
        def step(self) -> float:
            return RHO

    steps = TheirSteps(tensors)
    weights = list(steps.model.parameters())
    base = torch.optim.SGD(weights, **SGD)
    optimizer = library.GSAM(weights, base, steps.model, Constant(), alpha=ALPHA)

    def run(closure: Any, x: Any, y: Any) -> None:
        del closure
        optimizer.set_closure(steps.loss, x, y)
        optimizer.step()

    return steps.train(run)


# ------------------------------------------------------- theirs, written in NumPy


def float32_norm(tree: Tree, tensors: Tensors) -> Any:
    """Each tensor's norm is rounded to float32, and the rest of it is in float32."""
    norms = torch.tensor([_norm(tree, names) for names in tensors], dtype=torch.float32)
    return norms.square().sum().sqrt()


def _norm(tree: Tree, names: Sequence[str]) -> float:
    return float(np.sqrt(sum((tree[name] ** 2).sum() for name in names)))


def _unit(tree: Tree, names: Sequence[str]) -> Tree:
    return {name: tree[name] / _norm(tree, names) for name in names}


def _dot(a: Tree, b: Tree, names: Sequence[str]) -> float:
    return float(sum((a[name] * b[name]).sum() for name in names))


def written(method: oracles.Method) -> Tree:
    return oracles.train(method, start(), batches()[:STEPS], LEARNING_RATE, MOMENTUM).params


def written_sam(tensors: Tensors, metric: Callable[[Tree], Tree] | None = None) -> Any:
    """`eps = rho T^2 g / ||T g||`, T = 1 or `metric`."""

    def step(t: int, params: Tree, batch: Batch) -> Step:
        del t
        everyone = oracles.everything(batch)
        g = mean_gradient(params, batch, everyone)
        m = metric(params) if metric else {name: np.ones_like(g[name]) for name in g}
        length = float(RHO / float32_norm(times(m, g), tensors))
        eps = scaled(times(m, times(m, g)), length)
        descent = mean_gradient(add(params, eps), batch, everyone)
        return Step(descent, eps, g, everyone)

    return step


def size(params: Tree) -> Tree:
    return {name: np.abs(leaf) for name, leaf in params.items()}


def written_gsam(tensors: Tensors) -> Any:
    """Their projection: by a cosine of norms, of which that of g alone is in float64."""

    def step(t: int, params: Tree, batch: Batch) -> Step:
        s = written_sam(tensors)(t, params, batch)
        new, old = float(float32_norm(s.gradient, tensors)), oracles.norm(s.ascent)
        cosine = oracles.dot(s.ascent, s.gradient) / (new * old + 1e-12)
        along = scaled(s.gradient, cosine * old / (new + 1e-12))
        rest = add(s.ascent, scaled(along, -1.0))
        return s._replace(gradient=add(s.gradient, scaled(rest, -ALPHA)))

    return step


def written_f_sam(tensors: Tensors, sigma: float) -> Any:
    past: list[Tree] = []

    def step(t: int, params: Tree, batch: Batch) -> Step:
        del t
        everyone = oracles.everything(batch)
        g = mean_gradient(params, batch, everyone)
        d = add(g, scaled(past[-1], -sigma)) if past else g
        m = add(scaled(past[-1], DECAY), scaled(g, 1.0 - DECAY)) if past else g
        past.append(m)
        eps = scaled(d, float(RHO / float32_norm(d, tensors)))
        descent = mean_gradient(add(params, eps), batch, everyone)
        return Step(descent, eps, g, everyone)

    return step


def written_look_sam(
    tensors: Tensors, projected: Tensors, measured: Tensors, constant: float = 1e-8
) -> Any:
    """Theirs is `projected` and `measured` tensor by tensor; its norms here in float64."""
    kept: dict[str, Any] = {}

    def step(t: int, params: Tree, batch: Batch) -> Step:
        everyone = oracles.everything(batch)
        g = mean_gradient(params, batch, everyone)
        if t % PERIOD == 0:
            s = written_sam(tensors)(t, params, batch)
            for names in projected:
                # Of unit vectors, so that one number leaves zero and no rounding.
                unit = _unit(g, names)
                cosine = _dot(unit, _unit(s.gradient, names), names)
                along = _norm(s.gradient, names) * cosine
                kept.update({n: s.gradient[n] - along * unit[n] for n in names})
            return s
        u = {}
        for names in measured:
            share = _norm(g, names) / (_norm(kept, names) + constant)
            u.update({n: g[n] + SHARE * share * kept[n] for n in names})
        return Step(u, scaled(g, 0.0), g, everyone, g)

    return step


# ------------------------------------------------------------ one formula, two norms


class Case(NamedTuple):
    theirs: Callable[[Tensors], Trained]
    ours: Callable[[], Any]
    written: Callable[[Tensors], Any]
    """Theirs, in NumPy."""


def everywhere(params: Any) -> Any:
    return jax.tree.map(lambda _: True, params)


def f_sam(sigma: float) -> Case:
    options = {"rho": RHO, "sigma": sigma, "lmbda": DECAY}
    return Case(
        lambda tensors: theirs("FriendlySAM", tensors, **options),
        lambda: ksam_jax.f_sam(RHO, sigma, DECAY),
        lambda tensors: written_f_sam(tensors, sigma),
    )


SAME = {
    "sam": Case(
        lambda tensors: theirs("SAM", tensors, rho=RHO),
        lambda: ksam_jax.sam(RHO),
        written_sam,
    ),
    "asam, eta 0, all tensors": Case(
        lambda tensors: theirs("SAM", tensors, rho=RHO, adaptive=True),
        lambda: ksam_jax.asam(RHO, eta=0.0, adaptive_mask=everywhere),
        lambda tensors: written_sam(tensors, size),
    ),
    "gsam": Case(their_gsam, lambda: ksam_jax.gsam(RHO, ALPHA), written_gsam),
    "f_sam": f_sam(0.6),
    "f_sam, sigma 1": f_sam(1.0),
}


@TENSORS
@pytest.mark.parametrize("name", SAME)
def test_theirs_is_ours_but_for_norms_in_float32(name, tensors, record_property):
    case = SAME[name]
    found, mine = case.theirs(tensors), ours(case.ours(), tensors)
    assert apart(found.weights, written(case.written(tensors))) < 1e-11
    difference = apart(found.weights, mine.weights)
    record_property("largest_difference", difference)
    print(f"{name}: {difference:.1e}")
    assert 1e-10 < difference < 2e-6
    assert found.gradients == mine.gradients == [2] * STEPS


@pytest.mark.parametrize("name", [name for name in SAME if name != "sam"])
def test_the_methods_are_not_sam(name):
    """That the tests above see which method it is."""
    plain = ours(ksam_jax.sam(RHO)).weights
    assert apart(ours(SAME[name].ours()).weights, plain) > 1e-2


def test_our_norm_is_in_float64():
    expected = written(oracles.sam(lambda _: RHO))
    assert apart(ours(ksam_jax.sam(RHO)).weights, expected) < 1e-12


# ------------------------------------------------------------------------ ASAM


def test_asam_has_an_eta_and_a_mask_here_and_none_there(record_property):
    """Theirs never climbs along a weight at zero; by default ours does."""
    found = theirs("SAM", rho=RHO, adaptive=True).weights
    mine = ours(ksam_jax.asam(RHO)).weights
    assert apart(mine, written(oracles.asam(lambda _: RHO, 0.01))) < 1e-12
    difference = apart(found, mine)
    record_property("largest_difference", difference)
    print(f"asam by default: {difference:.1e}")
    assert difference > 1e-2


def test_their_asam_leaves_weights_at_zero():
    model = Network(APART)
    b1 = model.leaves[NAMES.index("b1")]
    with torch.no_grad():
        b1.zero_()
    params = {name: leaf.copy() for name, leaf in model.weights().items()}
    inputs, labels = batches()[0]
    targets = torch.tensor(labels).long()
    torch.nn.functional.cross_entropy(model(torch.tensor(inputs)), targets).backward()
    optimizer = library.SAM(
        model.parameters(), torch.optim.SGD, rho=RHO, adaptive=True, **SGD
    )
    optimizer.first_step()
    moved = {name: leaf - params[name] for name, leaf in model.weights().items()}
    assert not moved["b1"].any()
    assert all(moved[name].all() for name in NAMES if name != "b1")

    climb = ksam_jax.scale_to_adaptive_radius(RHO, 0.01, everywhere)
    eps: Any
    gradient = as_jax(mean_gradient(params, batches()[0], range(len(labels))))
    eps, _ = climb.update(gradient, climb.init(as_jax(params)), as_jax(params))
    assert jnp.all(eps["b1"] != 0.0)


# --------------------------------------------------------------------- LookSAM

LOOK = {"rho": RHO, "k": PERIOD, "alpha": SHARE}


@TENSORS
def test_their_look_sam_goes_tensor_by_tensor(tensors):
    expected = written(written_look_sam(tensors, tensors, tensors))
    assert apart(theirs("LookSAM", tensors, **LOOK).weights, expected) < 1e-11
    without = written(written_look_sam(tensors, tensors, tensors, constant=1e-12))
    assert apart(without, expected) > 1e-9


@TENSORS
def test_our_look_sam_goes_over_all_weights_together(tensors):
    mine = ours(ksam_jax.look_sam(RHO, SHARE, PERIOD), tensors).weights
    expected = written(oracles.look_sam(lambda _: RHO, SHARE, PERIOD))
    assert apart(mine, expected) < 1e-11


def test_look_sam_agrees_on_one_tensor(record_property):
    found = theirs("LookSAM", TOGETHER, **LOOK).weights
    mine = ours(ksam_jax.look_sam(RHO, SHARE, PERIOD), TOGETHER).weights
    difference = apart(found, mine)
    record_property("largest_difference", difference)
    print(f"look_sam, one tensor: {difference:.1e}")
    assert difference < 2e-6


def test_look_sam_parts_on_five_tensors(record_property):
    """Both the projection and the length have their share in it."""
    found = theirs("LookSAM", APART, **LOOK).weights
    mine = ours(ksam_jax.look_sam(RHO, SHARE, PERIOD), APART).weights
    differences = {
        "both": apart(found, mine),
        "projection": apart(written(written_look_sam(APART, APART, TOGETHER)), mine),
        "length": apart(written(written_look_sam(APART, TOGETHER, APART)), mine),
    }
    for what, difference in differences.items():
        record_property(what, difference)
        print(f"look_sam, five tensors, {what}: {difference:.1e}")
    assert min(differences.values()) > 1e-2


def test_look_sam_computes_two_gradients_in_every_step_there():
    assert theirs("LookSAM", **LOOK).gradients == [2] * STEPS
    in_turn = [2 if t % PERIOD == 0 else 1 for t in range(STEPS)]
    assert ours(ksam_jax.look_sam(RHO, SHARE, PERIOD)).gradients == in_turn


def test_the_second_gradient_changes_nothing_between_two_sam_steps_there():
    """By `first_step` and `second_step` theirs can be run at the cost of ours."""
    steps = TheirSteps(APART)
    optimizer = library.LookSAM(steps.model.parameters(), torch.optim.SGD, **SGD, **LOOK)

    def run(closure: Any, x: Any, y: Any) -> None:
        del x, y
        closure()
        optimizer.first_step()
        if optimizer.get_step() % PERIOD == 0:
            closure()
        optimizer.second_step()

    found = steps.train(run)
    assert apart(found.weights, theirs("LookSAM", **LOOK).weights) == 0.0
    assert sum(found.gradients) == STEPS + STEPS // PERIOD
