"""Every argument of every public function, wrong in every way: an error of ours, or none.

The parameters are found by `inspect.signature`, so that no new one can be forgotten. An
error may come from inside JAX, Optax or NumPy only by way of a function of the user's.
"""

import contextlib
import functools
import inspect
import os
import re
import traceback
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest
from problems import slow_but

import ksam_jax as kj

# One process compiles for all of them what they have in common.
pytestmark = pytest.mark.xdist_group("wrong_arguments")

N = 7
PARAMS = {"w": jnp.asarray([0.5, -1.0]), "b": jnp.asarray(0.25)}
GRADIENT = {"w": jnp.asarray([1.0, 2.0]), "b": jnp.asarray(-1.0)}
FLAGS = {"w": True, "b": False}
BATCH = {
    "x": jnp.asarray(np.random.default_rng(0).normal(0.2, 1.0, (N, 2)), jnp.float32),
    "y": jnp.linspace(-1.0, 2.0, N),
    "index": jnp.arange(N),
}


def example_loss(p: Any, example: Any) -> Any:
    return (jnp.sum(example["x"] * p["w"]) + p["b"] - example["y"]) ** 2


def loss_fn(p: Any, batch: Any) -> Any:
    return (batch["x"] @ p["w"] + p["b"] - batch["y"]) ** 2


# ------------------------------------------------------------------- wrong values


class OwnError(Exception):
    """What a function of the user's raises: it has to come out as it is."""


def raising(*args: Any) -> Any:
    raise OwnError


class Thing:
    """A class, which is a callable, but of no arguments."""


# Made anew for each call: a generator can be used once.
VALUES: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "True": lambda: True,
    "a string": lambda: "words",
    "an empty string": lambda: "",
    "bytes": lambda: b"words",
    "-1": lambda: -1,
    "0": lambda: 0,
    "3": lambda: 3,
    "2**70": lambda: 2**70,
    "10**400": lambda: 10**400,
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "1j": lambda: 1j,
    "2.5": lambda: 2.5,
    "a Fraction": lambda: Fraction(1, 2),
    "a NumPy integer": lambda: np.int64(0),
    "an unsigned integer": lambda: np.uint64(2**64 - 1),
    "a NumPy float": lambda: np.float64(0.5),
    "a NumPy bool": lambda: np.bool_(True),
    "a list": lambda: [1.0, 2.0],
    "a ragged list": lambda: [[1.0], [1.0, 2.0]],
    "an empty list": lambda: [],
    "an empty tuple": lambda: (),
    "a set": lambda: {1.0},
    "an empty dict": dict,
    "a dict of strings": lambda: {"a": "b"},
    "an object": object,
    "a class": lambda: Thing,
    "a type": lambda: object,
    "a generator": lambda: (x for x in [1.0]),
    "a ShapeDtypeStruct": lambda: jax.ShapeDtypeStruct((2,), jnp.float32),
    "a function without parameters": lambda: lambda: 1.0,
    "a compiled function without parameters": lambda: jax.jit(lambda: 1.0),
    "a function that returns text": lambda: lambda *args: "text",
    "a function that returns None": lambda: lambda *args: None,
    "a function that returns a number": lambda: lambda *args: 0.5,
    "a function that returns an object": lambda: lambda *args: object(),
    "a function that returns a complex number": lambda: lambda *args: jnp.asarray(1j),
    "a function that returns a vector": lambda: lambda *args: jnp.ones(3),
    "a function that raises": lambda: raising,
    "a NumPy function": lambda: np.add,
    "an array": lambda: jnp.ones((2, 3)),
    "a NumPy array": lambda: np.ones((2, 3)),
    "an int array": lambda: jnp.arange(3),
    "a bool array": lambda: jnp.ones(3, bool),
    "an empty array": lambda: jnp.ones(0),
    "an array of objects": lambda: np.array([None, object()]),
    "one object in an array": lambda: np.array(object()),
    "an array of text": lambda: np.array(["a", "b"]),
    "an array of dates": lambda: np.array(["2026-01-01"], "datetime64[D]"),
    "a complex array": lambda: jnp.ones(2, complex),
    "a complex NumPy array": lambda: np.ones(2, complex),
    "a number in an array": lambda: jnp.asarray(0.5),
    "an integer in an array": lambda: jnp.asarray(0),
    "a bool in an array": lambda: jnp.asarray(True),
    "nan in an array": lambda: jnp.asarray(jnp.nan),
    "a key": lambda: jax.random.key(0),
}
# Parameters that are trees: the values also take the place of a leaf.
TREES = {
    "updates": GRADIENT,
    "params": PARAMS,
    "batch": BATCH,
    "mask": FLAGS,
    "adaptive_mask": FLAGS,
}


def with_leaf(tree: Any, value: Any) -> Any:
    """The tree with the value for its first leaf."""
    if isinstance(tree, list):
        return [with_leaf(tree[0], value), *tree[1:]]
    first = next(iter(tree))
    return {**tree, first: value}


def wrong(parameter: str, trees: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every value, and trees with it for a leaf, each with its name."""
    for name, make in VALUES.items():
        yield name, make()
        if parameter in trees:
            yield f"a leaf that is {name}", with_leaf(trees[parameter], make())


# ----------------------------------------------------------------- what is right


@contextlib.contextmanager
def as_users_have_it() -> Iterator[None]:
    """No type checks, which only the tests switch on, and no frame of JAX's left out."""
    config: Any = jax.config
    before = config.jax_traceback_filtering
    jaxtyping.config.update("jaxtyping_disable", True)
    config.update("jax_traceback_filtering", "off")
    try:
        yield
    finally:
        config.update("jax_traceback_filtering", before)
        jaxtyping.config.update("jaxtyping_disable", False)


def complaint(call: Callable[[], Any], names: str, parameter: str) -> str | None:
    """What is wrong with how a call fails; None if it succeeds, or fails as it should."""
    try:
        with as_users_have_it():
            call()
    except OwnError:
        return None
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        if parameter in ("params", "batch", "batches") and _from_the_loss(frames):
            return None
        where = f"{frames[-1].filename}:{frames[-1].lineno}"
        said = f"{type(error).__name__} in {where}: {error}"
        if not isinstance(error, TypeError | ValueError) or not _is_ours(frames[-1]):
            return said
        # What `per_example` makes of it is the loss_fn of `update`; and of complex weights
        # the loss is complex, which may be refused as what it returns.
        others = {"example_loss": "example_loss|loss_fn", "params": "params|loss_fn"}
        also = others.get(parameter, parameter)
        words = rf"\b({names})\b", rf"\b({also})\b"
        return None if all(re.search(word, str(error)) for word in words) else said
    return None


def _is_ours(frame: traceback.FrameSummary) -> bool:
    return frame.filename.startswith(os.path.dirname(kj.__file__) + os.sep)


def _from_the_loss(frames: list[traceback.FrameSummary]) -> bool:
    """Whether the loss itself failed, of weights or of a batch that it isn't made for."""
    return any(frame.name in ("loss_fn", "example_loss") for frame in frames)


class Case(NamedTuple):
    """A call that is right: a function, its good arguments, and what is made of the result.

    Attributes:
      names: a pattern for what its errors may call it.
    """

    function: Callable[..., Any]
    names: str
    good: dict[str, Any] = {}  # noqa: RUF012
    use: Callable[[Any], Any] = id


def parameters(case: Case) -> list[str]:
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    found = inspect.signature(case.function).parameters.values()
    return [p.name for p in found if p.kind not in kinds]


def run(case: Case, given: dict[str, Any]) -> Any:
    return case.use(case.function(**given))


def complaints(case: Case, parameter: str, trees: dict[str, Any] = TREES) -> list[str]:
    """What is wrong with what any of the wrong values gets."""
    found = []
    for name, value in wrong(parameter, trees):
        given = {**case.good, parameter: value}
        call = functools.partial(run, case, given)
        said = complaint(call, case.names, parameter)
        found += [f"{parameter} = {name}: {said}"] if said else []
    return found


def step(tx: Any, loss: Any = loss_fn) -> Any:
    return tx.update(None, tx.init(PARAMS), PARAMS, loss_fn=loss, batch=BATCH)


def climb(tx: Any) -> Any:
    return tx.update(GRADIENT, tx.init(PARAMS), PARAMS)


def combine(tx: Any) -> Any:
    return tx.update(GRADIENT, tx.init(PARAMS), PARAMS, ascent_gradient=GRADIENT)


def select(selection: Any) -> Any:
    radius = kj.scale_to_radius(0.1)
    step(kj.sharpness_aware(radius, ascent=selection))


def descend(selection: Any) -> Any:
    step(kj.sharpness_aware(kj.scale_to_radius(0.1), descent=selection))


def train(loss: Any) -> Any:
    loss(PARAMS, BATCH)
    step(kj.k_sam(k=3), loss)


def choose(evidence: Any, state: Any) -> Any:
    del evidence
    return kj.Chosen(jnp.arange(2), jnp.full((2,), 0.5)), state


def learn(batch: Any, chosen: Any, losses: Any, state: Any, join: Any) -> Any:
    del batch, chosen, losses, join
    return state


METHODS = [
    name
    for name, function in vars(kj).items()
    if callable(function)
    and name not in ("sharpness_aware", "Common")
    and "num_microbatches" in inspect.signature(function).parameters
]
COMBINES = ("subtract_orthogonal", "remember_orthogonal", "add_orthogonal")
CLASSES = ("Selection", "Ascent")
# What these call is the user's own, and named by its own name.
PIECES = ("choose", "init", "learn", "direction")
PARTS = ("scale_to_radius", "scale_to_adaptive_radius", "scale_to_budget")
PARTS = (*PARTS, "subtract_ema", "follow_ema", "random_mask")
GOOD: dict[str, dict[str, Any]] = {
    "Selection": {"choose": choose, "learn": learn},
    "Ascent": {"direction": lambda state, params: params},
    "sharpness_aware": {"perturbation": kj.scale_to_radius(0.1)},
    "scale_to_radius": {"rho": 0.1},
    "scale_to_adaptive_radius": {"rho": 0.1},
    "scale_to_budget": {"sigma": 0.1},
    "random_mask": {"beta": 0.5},
    "highest_loss": {"k": 3},
    "highest_remembered_loss": {"k": 3, "num_examples": 20},
    "largest_increase": {"gamma": 3},
    "random_subset": {"m": 3},
    "top_k_mask": {"losses": jnp.arange(7.0), "k": 1},
    "per_example": {"example_loss": example_loss},
    "dynamic_loss_scale": {"inner": optax.chain(kj.k_sam(k=3), optax.sgd(0.1))},
    "hand_on_loss": {"method": kj.k_sam(k=3), "optimizer": optax.sgd(0.1)},
    "join_methods": {"methods": [kj.mean_gradient(), kj.k_sam(k=3)], "boundaries": [1]},
    "every": {"period": 2, "method": kj.k_sam(k=3)},
    "subtract_orthogonal": {"alpha": 0.5},
    "add_orthogonal": {"alpha": 0.5},
    "get_info": {"opt_state": kj.sam().init(PARAMS)},
    "take_aux": {"opt_state": kj.sam().init(PARAMS)},
}
USES: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys([*METHODS, "sharpness_aware", "dynamic_loss_scale"], step),
    **dict.fromkeys(["join_methods", "every", "hand_on_loss"], step),
    **dict.fromkeys(PARTS, climb),
    **dict.fromkeys(COMBINES, combine),
    **dict.fromkeys(["past_descent", "everything", "random_subset"], select),
    **dict.fromkeys(["highest_loss", "highest_remembered_loss"], select),
    "largest_increase": descend,
    "per_example": train,
    "by_coverage": lambda k: step(kj.k_sam(k=k)),
    "Selection": select,
    "Ascent": select,
}
FUNCTIONS = {
    name: Case(function, f"{name}|update", GOOD.get(name, {}), USES.get(name, id))
    for name, function in vars(kj).items()
    if name[0] != "_" and callable(function) and not isinstance(function, type)
} | {
    name: Case(getattr(kj, name), "|".join((name, *PIECES)), GOOD[name], USES[name])
    for name in CLASSES
}


def of_parameters(cases: dict[str, Case], slow: Callable[[str, str], bool]) -> Any:
    """A test for each parameter of each of the functions."""
    rows = [
        pytest.param(case, p, id=f"{n}-{p}", marks=[pytest.mark.slow] * slow(n, p))
        for n, case in cases.items()
        for p in parameters(case)
    ]
    return pytest.mark.parametrize(("case", "parameter"), rows)


# What all methods share goes through the same lines; one of them tells in every run.
COMMON = parameters(FUNCTIONS["sharpness_aware"])
BY_TENSOR = Case(functools.partial(kj.esam, mask_per="tensor"), "esam|update", use=step)


def is_slow(name: str, parameter: str | None = None) -> bool:
    is_another = name in METHODS and name != "k_sam"
    return is_another or (name == "sharpness_aware" and parameter in COMMON[1:])


# ------------------------------------------------------------------- the tests


def test_the_table_has_all_that_is_public():
    assert set(GOOD) | set(USES) == set(FUNCTIONS)
    records = [x for n, x in vars(kj).items() if n[0] != "_" and isinstance(x, type)]
    assert records
    others = {kj.Selection, kj.Ascent, kj.Common}
    assert all(issubclass(record, tuple) for record in set(records) - others)


@pytest.mark.parametrize("name", slow_but(("k_sam", "sharpness_aware"), FUNCTIONS))
def test_what_is_changed_is_right_before(name):
    case = FUNCTIONS[name]
    case.use(case.function(**case.good))


@of_parameters(FUNCTIONS, slow=is_slow)
def test_a_wrong_argument_gets_an_error_of_ours(case, parameter):
    assert complaints(case, parameter) == []


@pytest.mark.slow
def test_a_radius_that_is_divided_is_looked_at_first():
    """Of masks per tensor, whose radius isn't the one that was given."""
    assert complaints(BY_TENSOR, "rho") == []


# One of each kind: what a step of it reads, remembers and calls is different.
TRANSFORMATIONS: dict[str, Any] = {
    "sam": kj.sam(),
    "k_sam": kj.k_sam(k=3),
    "esam": kj.esam(),
    "f_sam": kj.f_sam(),
    "momentum_sam": kj.momentum_sam(),
    "remembered": kj.sharpness_aware(
        kj.scale_to_radius(0.1), descent=kj.highest_remembered_loss(3, 20)
    ),
    "dynamic_loss_scale": kj.dynamic_loss_scale(kj.sam()),
    "hand_on_loss": kj.hand_on_loss(kj.sam(), optax.sgd(0.1)),
    "mean_gradient": kj.mean_gradient(),
    "gsam": kj.gsam(),
    "look_sam": kj.look_sam(),
    "join_methods": kj.join_methods([kj.mean_gradient(), kj.k_sam(k=3)], [1]),
    **{name: getattr(kj, name)(**GOOD.get(name, {})) for name in PARTS},
}


def calls_of(name: str, tx: Any) -> dict[str, Case]:
    state = tx.init(PARAMS)
    given = {"updates": GRADIENT, "state": state, "params": PARAMS}
    if name not in PARTS:
        given |= {"updates": None, "loss_fn": loss_fn, "batch": BATCH}
    return {
        f"{name}.init": Case(tx.init, "init", {"params": PARAMS}),
        f"{name}.update": Case(tx.update, "update", given),
    }


CALLS = {
    **{k: v for name, tx in TRANSFORMATIONS.items() for k, v in calls_of(name, tx).items()},
    "per_example(loss)": Case(
        kj.per_example(example_loss), "per_example", {"params": PARAMS, "batch": BATCH}
    ),
}


@of_parameters(CALLS, slow=lambda name, p: name.split(".")[0] != "k_sam")
def test_a_wrong_argument_of_init_or_update_gets_an_error_of_ours(case, parameter):
    assert complaints(case, parameter) == []


PERTURBATIONS = {
    "text": lambda updates: "text",
    "None": lambda updates: None,
    "leaves of text": lambda updates: jax.tree.map(lambda u: "text", updates),
    "other shapes": lambda updates: jax.tree.map(lambda u: jnp.ones((2, 3)), updates),
    "integers": lambda updates: jax.tree.map(lambda u: u.astype(int), updates),
    "complex numbers": lambda updates: jax.tree.map(
        lambda u: jax.lax.complex(u, u), updates
    ),
    "an error": raising,
}


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_a_perturbation_of_the_users_that_makes_no_epsilon_gets_an_error_of_ours(name):
    tx: Any = kj.sharpness_aware(optax.stateless(lambda u, p: PERTURBATIONS[name](u)))
    words = "sharpness_aware", "perturbation"
    assert complaint(lambda: step(tx), *words) is None


@pytest.mark.parametrize("make", [kj.sam, kj.k_sam, kj.momentum_sam])
def test_an_error_of_the_loss_comes_out_as_it_is(make):
    for loss in (raising, kj.per_example(raising)):
        with pytest.raises(OwnError):
            step(make(), loss)


def test_a_decorated_loss_may_wrap_one_that_takes_more():
    def of_three(p: Any, batch: Any, weight: float) -> Any:
        return weight * loss_fn(p, batch)

    @functools.wraps(of_three)
    def of_two(p: Any, batch: Any) -> Any:
        return of_three(p, batch, 2.0)

    with as_users_have_it():
        updates, _ = step(kj.sam(rho=0.0), of_two)
        plain, _ = step(kj.sam(rho=0.0))
    np.testing.assert_allclose(updates["w"], 2 * plain["w"], rtol=1e-6)
