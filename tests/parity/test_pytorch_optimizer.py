"""GSAM, LookSAM and F-SAM against pytorch_optimizer, over 20 momentum steps in float64.

Theirs agrees where the formulas are the same. LookSAM there projects and measures tensor
by tensor, here over all parameters together, so that the two agree on one tensor and part
on two; and it computes two gradients in every step. `make parity` runs this.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ksam_jax

torch: Any = pytest.importorskip("torch", reason="see `make parity`")
theirs: Any = pytest.importorskip("pytorch_optimizer", reason="see `make parity`")

STEPS, N, RATE, MOMENTUM = 20, 8, 0.05, 0.9
RNG = np.random.default_rng(3)
SLOPES = RNG.normal(0.4, 1.0, (STEPS, N, 5))
CURVES = RNG.uniform(0.2, 1.5, (STEPS, N, 5))
START = np.array([0.7, -1.2, 0.4, -0.3, 0.9])
SPLITS = {"one tensor": [5], "two tensors": [2, 3]}
# Of float64 gradients, too, theirs takes the norm in float32.
CLOSE: Any = {"rtol": 2e-6, "atol": 2e-7}


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def ours(method: Any, split: list[int]) -> np.ndarray:
    """The weights after 20 steps, of losses `a . w + c . w^2 / 2`."""
    tx: Any = optax.chain(method, optax.sgd(RATE, momentum=MOMENTUM))
    params: Any = [jnp.asarray(part) for part in np.split(START, np.cumsum(split)[:-1])]
    state = tx.init(params)

    def loss_fn(params: Any, batch: Any) -> Any:
        w = jnp.concatenate(params)
        return jnp.sum(batch["a"] * w + batch["c"] * w * w / 2, axis=1)

    @jax.jit
    def update(state: Any, params: Any, batch: Any) -> Any:
        return tx.update(None, state, params, loss_fn=loss_fn, batch=batch)

    for t in range(STEPS):
        batch = {"a": jnp.asarray(SLOPES[t]), "c": jnp.asarray(CURVES[t])}
        updates, state = update(state, params, batch)
        params = optax.apply_updates(params, updates)
    return np.concatenate([np.asarray(part) for part in params])


class Model(torch.nn.Module):
    """The same weights, whose losses' gradients are counted."""

    def __init__(self, split: list[int]) -> None:
        super().__init__()
        parts = np.split(START, np.cumsum(split)[:-1])
        weights = [torch.nn.Parameter(torch.tensor(part)) for part in parts]
        self.parts = torch.nn.ParameterList(weights)
        self.gradients = 0

    def forward(self, t: int) -> Any:
        w = torch.cat(list(self.parts))
        a, c = torch.tensor(SLOPES[t]), torch.tensor(CURVES[t])
        return (a * w + c * w * w / 2).sum(1).mean()

    def weights(self) -> np.ndarray:
        return torch.cat(list(self.parts)).detach().numpy()


def trained(name: str, split: list[int], **options: Any) -> Model:
    """Theirs, by `step(closure)` after a first backward pass."""
    model = Model(split)
    make = getattr(theirs, name)
    sgd = {"lr": RATE, "momentum": MOMENTUM}
    optimizer = make(model.parameters(), torch.optim.SGD, **sgd, **options)
    for t in range(STEPS):

        def closure(t: int = t) -> Any:
            optimizer.zero_grad()
            loss = model(t)
            loss.backward()
            model.gradients += 1
            return loss

        closure()
        optimizer.step(closure)
    return model


def trained_by_gsam(split: list[int], rho: float, alpha: float) -> Model:
    class Constant:
        def step(self) -> float:
            return rho

    model = Model(split)
    base = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)
    optimizer = theirs.GSAM(
        model.parameters(), base, model=model, rho_scheduler=Constant(), alpha=alpha
    )
    for t in range(STEPS):
        optimizer.set_closure(lambda loss, _: loss, t, None)
        optimizer.step()
    return model


@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS)
def test_gsam_is_theirs(split):
    expected = trained_by_gsam(split, 0.3, 0.4).weights()
    np.testing.assert_allclose(ours(ksam_jax.gsam(0.3, 0.4), split), expected, **CLOSE)
    assert np.max(np.abs(expected - ours(ksam_jax.sam(0.3), split))) > 1e-3


@pytest.mark.parametrize("sigma", [0.0, 0.6, 1.0])
def test_f_sam_is_theirs(sigma):
    """In both the average starts at the first gradient and is subtracted a step old."""
    expected = trained("FriendlySAM", [2, 3], rho=0.3, sigma=sigma, lmbda=0.9).weights()
    mine = ours(ksam_jax.f_sam(0.3, sigma, 0.9), [2, 3])
    np.testing.assert_allclose(mine, expected, **CLOSE)
    is_sam = np.max(np.abs(ours(ksam_jax.sam(0.3), [2, 3]) - mine)) < 1e-4
    assert is_sam == (sigma == 0.0)


def test_look_sam_is_theirs_on_one_tensor():
    options = {"rho": 0.3, "k": 4, "alpha": 0.7}
    expected = trained("LookSAM", [5], **options).weights()
    found = ours(ksam_jax.look_sam(0.3, 0.7, 4), [5])
    np.testing.assert_allclose(found, expected, **CLOSE)


def test_look_sam_parts_from_theirs_on_two_tensors():
    """The same weights in two tensors change theirs, which looks at each; not ours."""
    options = {"rho": 0.3, "k": 4, "alpha": 0.7}
    one, two = (trained("LookSAM", s, **options).weights() for s in SPLITS.values())
    assert np.max(np.abs(one - two)) > 1e-2
    mine = [ours(ksam_jax.look_sam(0.3, 0.7, 4), s) for s in SPLITS.values()]
    np.testing.assert_allclose(*mine, rtol=1e-12)


def test_their_look_sam_computes_two_gradients_in_every_step():
    assert trained("LookSAM", [5], rho=0.3, k=4, alpha=0.7).gradients == 2 * STEPS
