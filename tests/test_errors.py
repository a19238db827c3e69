"""What bad input gets: one error that names the call, the rule, the value, the remedy.

Each table holds what a user may type wrong and the text that must come back.
"""

import inspect
import math
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ksam_jax as kj

N = 7
NAN, INF = math.nan, math.inf
Table = Iterable[tuple[str, Callable[[], Any], str]]


def rows(table: Table) -> Any:
    """Parametrizes a test by rows of: what was typed, the call, the expected text."""
    return pytest.mark.parametrize(
        ("call", "match"),
        [pytest.param(call, f"(?s){match}", id=typed) for typed, call, match in table],
    )


def typed(function: str, argument: str, value: Any) -> str:
    """A pattern for the call as the user typed it, such as `k_sam(k=1.5)`."""
    return re.escape(f"{function}({argument}={value!r})")


def fresh(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function without the type checks that only the tests switch on."""
    return inspect.unwrap(function)


# ------------------------------------------------------------------- construction

METHODS = {
    "sam": kj.sam,
    "asam": kj.asam,
    "random_sam": kj.random_sam,
    "k_sam": kj.k_sam,
    "esam": kj.esam,
    "f_sam": kj.f_sam,
    "momentum_sam": kj.momentum_sam,
    "k_momentum_sam": kj.k_momentum_sam,
}
WITH_RHO = METHODS | {
    "scale_to_radius": kj.scale_to_radius,
    "scale_to_adaptive_radius": kj.scale_to_adaptive_radius,
}
WITH_SIZE = {
    ("random_sam", "m"): kj.random_sam,
    ("k_sam", "k"): kj.k_sam,
    ("esam", "gamma"): kj.esam,
    ("k_momentum_sam", "k"): kj.k_momentum_sam,
    ("highest_loss", "k"): kj.highest_loss,
    ("highest_remembered_loss", "k"): lambda k: kj.highest_remembered_loss(k, 50),
    ("largest_increase", "gamma"): kj.largest_increase,
    ("random_subset", "m"): kj.random_subset,
    ("top_k_mask", "k"): lambda k: kj.top_k_mask(jnp.ones(N), k=k),
}
WITH_SKIP = {
    ("k_sam", "skip"): kj.k_sam,
    ("k_momentum_sam", "skip"): kj.k_momentum_sam,
    ("highest_loss", "skip"): lambda skip: kj.highest_loss(3, skip),
}


def argument_rows(
    functions: dict[tuple[str, str], Callable[..., Any]],
    values: Iterable[Any],
    rule: str,
) -> list[tuple[str, Callable[[], Any], str]]:
    """One row for each function and value; the text names the call and the rule."""
    return [
        (
            f"{name}({argument}={value!r})",
            lambda function=function, argument=argument, value=value: function(
                **{argument: value}
            ),
            typed(name, argument, value) + ".*" + rule,
        )
        for (name, argument), function in functions.items()
        for value in values
    ]


@rows(
    argument_rows(
        {(name, "rho"): function for name, function in WITH_RHO.items()},
        [-0.1, NAN, INF, "0.05", None, True, [0.05, 0.1], 1j],
        r"finite number >= 0",
    )
)
def test_rho_that_is_no_radius_is_refused(call, match):
    with pytest.raises((TypeError, ValueError), match=match):
        call()


@rows(
    argument_rows(
        WITH_SIZE,
        [0, -3, 0.0, 1.5, -0.25, NAN, INF, True, "a quarter", None, 1j],
        r"integer >= 1.*\(0, 1\]",
    )
)
def test_number_of_examples_out_of_range_is_refused(call, match):
    with pytest.raises((TypeError, ValueError), match=match):
        call()


@rows(
    [
        *argument_rows(
            {("esam", "beta"): kj.esam, ("random_mask", "beta"): kj.random_mask},
            [0, 0.0, -0.6, 1.5, NAN, "half", True, None],
            r"\(0, 1\]",
        ),
        *argument_rows(
            {
                ("f_sam", "decay"): kj.f_sam,
                ("subtract_ema", "decay"): kj.subtract_ema,
                ("momentum_sam", "decay"): kj.momentum_sam,
                ("k_momentum_sam", "decay"): kj.k_momentum_sam,
                ("past_descent", "decay"): kj.past_descent,
            },
            [-0.1, 1, 1.5, NAN, INF, "slow", True, None],
            r"\[0, 1",
        ),
        *argument_rows(
            {("f_sam", "sigma"): kj.f_sam, ("subtract_ema", "sigma"): kj.subtract_ema},
            [NAN, INF, "all", True, None],
            "finite",
        ),
        *argument_rows(
            {
                ("asam", "eta"): kj.asam,
                ("scale_to_adaptive_radius", "eta"): lambda eta: (
                    kj.scale_to_adaptive_radius(0.5, eta=eta)
                ),
            },
            [-0.01, NAN, INF, "small", True, None],
            ">= 0",
        ),
        *argument_rows(
            {
                ("random_sam", "seed"): kj.random_sam,
                ("esam", "seed"): kj.esam,
                ("random_subset", "seed"): lambda seed: kj.random_subset(3, seed=seed),
                ("random_mask", "seed"): lambda seed: kj.random_mask(0.5, seed=seed),
            },
            [0.5, "zero", None, True, [1, 2]],
            "integer",
        ),
        *argument_rows(
            WITH_SKIP,
            [-1, -0.25, 1.0, 1.5, NAN, INF, True, "a few", 1j],
            r"integer >= 0.*\[0, 1\)",
        ),
        *argument_rows(
            {
                ("highest_remembered_loss", "num_examples"): lambda num_examples: fresh(
                    kj.highest_remembered_loss
                )(0.25, num_examples)
            },
            [0, -5, 2.5, 50.0, NAN, True, "all", None],
            "integer >= 1",
        ),
    ]
)
def test_hyperparameter_out_of_range_is_refused(call, match):
    with pytest.raises((TypeError, ValueError), match=match):
        call()


@rows(
    [
        (
            "esam(mask_per='tensors')",
            lambda: kj.esam(mask_per="tensors"),
            r"esam\(mask_per='tensors'\).*coordinate.*tensor",
        ),
        (
            "random_mask(per='leaf')",
            lambda: kj.random_mask(0.5, per="leaf"),
            r"random_mask\(per='leaf'\).*coordinate.*tensor",
        ),
        (
            "per_example(keep='everything')",
            lambda: kj.per_example(lambda p, e: p, keep="everything"),
            r"per_example\(keep='everything'\).*nothing.*matmuls.*all",
        ),
        (
            "per_example(keep=True)",
            lambda: fresh(kj.per_example)(lambda p, e: p, keep=True),
            r"per_example\(keep=True\).*nothing.*matmuls.*all",
        ),
        (
            "per_example(3)",
            lambda: fresh(kj.per_example)(3),
            r"per_example\(example_loss=3\).*function",
        ),
        (
            "sharpness_aware(0.05)",
            lambda: fresh(kj.sharpness_aware)(0.05),
            r"sharpness_aware\(perturbation=0\.05\).*scale_to_radius",
        ),
        (
            "sharpness_aware(ascent=0.25)",
            lambda: fresh(kj.sharpness_aware)(kj.scale_to_radius(0.1), ascent=0.25),
            r"sharpness_aware\(ascent=0\.25\).*highest_loss",
        ),
        (
            "sharpness_aware(descent='all')",
            lambda: fresh(kj.sharpness_aware)(kj.scale_to_radius(0.1), descent="all"),
            r"sharpness_aware\(descent='all'\).*selection",
        ),
        (
            "sharpness_aware(ascent=everything without parentheses)",
            lambda: fresh(kj.sharpness_aware)(
                kj.scale_to_radius(0.1), ascent=kj.everything
            ),
            r"sharpness_aware\(ascent=<function everything.*selection",
        ),
        (
            "sharpness_aware(ascent=largest_increase(0.5))",
            lambda: kj.sharpness_aware(
                kj.scale_to_radius(0.1), ascent=kj.largest_increase(0.5)
            ),
            r"sharpness_aware\(ascent=largest_increase\(gamma=0\.5\)\).*descent",
        ),
        (
            "sharpness_aware(descent=past_descent(0.9))",
            lambda: fresh(kj.sharpness_aware)(
                kj.scale_to_radius(0.1), descent=kj.past_descent(0.9)
            ),
            r"sharpness_aware\(descent=.*past_descent.*selection",
        ),
        (
            "sharpness_aware(ascent=past_descent without parentheses)",
            lambda: fresh(kj.sharpness_aware)(
                kj.scale_to_radius(0.1), ascent=kj.past_descent
            ),
            r"sharpness_aware\(ascent=<function past_descent.*selection",
        ),
    ]
)
def test_word_or_part_of_the_wrong_kind_is_refused(call, match):
    with pytest.raises((TypeError, ValueError), match=match):
        call()


GENERAL = METHODS | {
    "sharpness_aware": lambda **kwargs: kj.sharpness_aware(
        kj.scale_to_radius(0.1), **kwargs
    )
}


def test_every_method_takes_the_common_arguments():
    for make in GENERAL.values():
        tx = make(mask=None, perturbed_dtype=jnp.float32, axis_name=None)
        assert isinstance(tx, optax.GradientTransformationExtraArgs)
        tx = make(sync_ascent=True, groups=None, num_microbatches=None)
        assert isinstance(tx, optax.GradientTransformationExtraArgs)


@rows(
    argument_rows(
        {(name, "perturbed_dtype"): make for name, make in GENERAL.items()},
        ["float33", 32],
        "float",
    )
    + argument_rows(
        {(name, "perturbed_dtype"): make for name, make in GENERAL.items()},
        [jnp.dtype("int32"), jnp.dtype("complex64")],
        "float",
    )
)
def test_perturbed_dtype_that_is_no_float_is_refused(call, match):
    with pytest.raises((TypeError, ValueError), match=match):
        call()


# ------------------------------------------------------------------------- update


def params() -> Any:
    return {"w": jnp.asarray([0.5, -1.0, 2.0]), "b": jnp.asarray(0.25)}


def batch() -> Any:
    rng = np.random.default_rng(0)
    x, y = rng.normal(0.2, 1.0, (N, 3)), rng.normal(-0.1, 1.0, N)
    return {"x": jnp.asarray(x, jnp.float32), "y": jnp.asarray(y, jnp.float32)}


def example_loss(p: Any, example: Any) -> Any:
    return (example["x"] @ p["w"] + p["b"] - example["y"]) ** 2


def losses(p: Any, batch: Any) -> Any:
    return (batch["x"] @ p["w"] + p["b"] - batch["y"]) ** 2


def update(tx: Any = None, updates: Any = None, **changed: Any) -> Any:
    """One update with everything right but what was changed; traced, never run."""
    tx = kj.k_sam() if tx is None else tx
    given = {"params": params(), "loss_fn": losses, "batch": batch()} | changed
    p = given.pop("params")
    loss_fn = given.pop("loss_fn")
    has_aux = given.pop("has_aux", False)
    state = tx.init(params() if p is None else p)

    def step(arrays: Any) -> Any:
        return tx.update(updates, state, p, loss_fn=loss_fn, has_aux=has_aux, **arrays)

    return jax.eval_shape(step, given)


def test_the_update_that_the_tables_change_is_itself_right():
    gradient, _ = update()
    assert jax.tree.map(jnp.shape, gradient) == {"w": (3,), "b": ()}


def in_every_method(
    name: str, loss: Callable[[Any, Any], Any], match: str, **changed: Any
) -> list[tuple[str, Callable[[], Any], str]]:
    """The same bad loss of a batch, under methods that run it differently.

    ROWS in the text stands for the number of examples that the loss is given first:
    the whole batch, or the random quarter that `random_sam` climbs on.
    """
    return [
        (
            f"{method}: {name}",
            lambda method=method: update(METHODS[method](), loss_fn=loss, **changed),
            match.replace("ROWS", "2" if method == "random_sam" else str(N)),
        )
        for method in METHODS
    ]


ONE_EACH = r"one loss per example, shape \(ROWS,\).*"


@rows(
    [
        *in_every_method(
            "a scalar loss",
            lambda p, b: losses(p, b).mean(),
            ONE_EACH + r"\(\).*remove the mean",
        ),
        *in_every_method(
            "losses with a second axis",
            lambda p, b: losses(p, b)[:, None],
            ONE_EACH + r"\(ROWS, 1\)",
        ),
        *in_every_method(
            "too few losses",
            lambda p, b: losses(p, b)[1:],
            ONE_EACH + r"\(\d,\)",
        ),
        *in_every_method(
            "a pair without has_aux",
            lambda p, b: (losses(p, b), b["y"]),
            ONE_EACH + "has_aux=True",
        ),
        *in_every_method(
            "no pair with has_aux",
            losses,
            r"has_aux=True.*\(losses, aux\)",
            has_aux=True,
        ),
        *in_every_method(
            "three results with has_aux",
            lambda p, b: (losses(p, b), b["y"], b["x"]),
            r"has_aux=True.*\(losses, aux\)",
            has_aux=True,
        ),
        *in_every_method(
            "integer losses",
            lambda p, b: losses(p, b).astype(jnp.int32),
            ONE_EACH + "int32",
        ),
        *in_every_method(
            "complex losses",
            lambda p, b: losses(p, b).astype(jnp.complex64),
            ONE_EACH + "complex64",
        ),
        *in_every_method("None", lambda p, b: None, ONE_EACH + "NoneType"),
        *in_every_method("a dict", lambda p, b: {"loss": losses(p, b)}, ONE_EACH + "dict"),
    ]
)
def test_loss_that_is_not_one_real_number_per_example_is_refused(call, match):
    with pytest.raises((TypeError, ValueError), match=match):
        call()


@pytest.mark.parametrize("keep", ["nothing", "matmuls", "all"])
@pytest.mark.parametrize("method", ["sam", "k_sam", "esam"])
def test_example_loss_that_is_not_a_scalar_is_refused(method, keep):
    loss_fn = kj.per_example(lambda p, e: e["x"] * p["w"], keep=keep)
    with pytest.raises(ValueError, match=rf"one loss per example.*\({N}, 3\)"):
        update(METHODS[method](), loss_fn=loss_fn)


@pytest.mark.parametrize("keep", ["nothing", "matmuls", "all"])
@pytest.mark.parametrize("method", ["sam", "k_sam", "esam"])
def test_example_loss_with_aux_but_without_has_aux_is_refused(method, keep):
    loss_fn = kj.per_example(lambda p, e: (example_loss(p, e), e["y"]), keep=keep)
    with pytest.raises((TypeError, ValueError), match="has_aux=True"):
        update(METHODS[method](), loss_fn=loss_fn)


@pytest.mark.parametrize("keep", ["nothing", "matmuls", "all"])
@pytest.mark.parametrize("method", ["sam", "k_sam", "esam"])
def test_example_loss_without_aux_but_with_has_aux_is_refused(method, keep):
    loss_fn = kj.per_example(example_loss, keep=keep)
    with pytest.raises((TypeError, ValueError), match=r"has_aux.*\(losses, aux\)"):
        update(METHODS[method](), loss_fn=loss_fn, has_aux=True)


@pytest.mark.parametrize("keep", ["matmuls", "all"])
def test_error_inside_the_users_loss_comes_out_as_it_is(keep):
    def broken(p: Any, example: Any) -> Any:
        raise KeyError("the user's own mistake")

    with pytest.raises(KeyError, match="the user's own mistake"):
        update(loss_fn=kj.per_example(broken, keep=keep))


LINE = r"tx\.update\(None, opt_state, params, loss_fn=loss_fn, batch=batch\)"


@rows(
    [
        (f"{method}: {argument} missing",
         lambda method=method, argument=argument: update(
             METHODS[method](), **{argument: None}),
         rf"{argument}.*{LINE}")
        for method in METHODS
        for argument in ("loss_fn", "batch", "params")
    ]
)  # fmt: skip
def test_missing_argument_is_named_with_the_line_to_write(call, match):
    with pytest.raises((TypeError, ValueError), match=match):
        call()


def test_a_plain_optax_call_is_told_the_line_to_write():
    tx = optax.chain(kj.sam(), optax.sgd(0.1))
    with pytest.raises((TypeError, ValueError), match=rf"loss_fn.*(?s:.*){LINE}"):
        tx.update(params(), tx.init(params()), params())


def eagerly(loss_fn: Any, examples: Any, tx: Any = None) -> Any:
    """A step outside of `jit`, which would refuse some input before we do."""
    tx = kj.k_sam(k=3) if tx is None else tx
    return tx.update(None, tx.init(params()), params(), loss_fn=loss_fn, batch=examples)


def test_strings_in_the_batch_are_refused():
    named = {**batch(), "id": np.array(list("abcdefg"))}
    with pytest.raises(TypeError, match=r"numbers, bools or keys.*\['id'\].*leave it out"):
        eagerly(losses, named)


@pytest.mark.parametrize("keep", ["matmuls", "all"])
def test_a_nan_found_by_debug_nans_is_not_blamed_on_keep(keep):
    def undefined(p: Any, example: Any) -> Any:
        return jnp.log(0.0 * example_loss(p, example) - 1.0)

    with jax.debug_nans(True), pytest.raises(FloatingPointError, match="nan"):
        eagerly(kj.per_example(undefined, keep=keep), batch())


@rows(
    [
        (
            "loss_fn=0.5",
            lambda: update(loss_fn=0.5),
            r"loss_fn=0\.5\).*function",
        ),
        (
            "leading axes differ",
            lambda: update(batch={"x": jnp.ones((N, 3)), "y": jnp.ones(5)}),
            r"x'\].*\(7, 3\).*y'\].*\(5,\)",
        ),
        (
            "a scalar leaf",
            lambda: update(batch={"x": jnp.ones((N, 3)), "step": jnp.ones(())}),
            r"step'\].*\(\).*x'\].*\(7, 3\)",
        ),
        (
            "a number among the leaves",
            lambda: update(batch={"x": jnp.ones((N, 3)), "temperature": 0.5}),
            r"temperature'\].*\(\)",
        ),
        (
            "no examples",
            lambda: update(batch={"x": jnp.ones((0, 3)), "y": jnp.ones(0)}),
            r"N >= 1.*x'\].*\(0, 3\).*y'\].*\(0,\)",
        ),
        ("no leaves", lambda: update(batch={}), "batch.*no leaves"),
        (
            "nested leaves",
            lambda: update(batch=({"a": [jnp.ones(N), jnp.ones(N - 1)]},)),
            r"batch\[0\]\['a'\]\[0\].*\(7,\).*batch\[0\]\['a'\]\[1\].*\(6,\)",
        ),
    ]
)
def test_batch_without_one_shared_leading_axis_is_refused(call, match):
    with pytest.raises((TypeError, ValueError), match=match):
        call()


def remembered(k: Any = 3, num_examples: int = 50, index: Any = "index") -> Any:
    """K-SAM's form with a memory."""
    hardest = kj.highest_remembered_loss(k, num_examples, index)
    return kj.sharpness_aware(kj.scale_to_radius(0.1), ascent=hardest, descent=hardest)


def numbered(numbers: Any) -> Any:
    """The batch with the examples' numbers in it."""
    return {**batch(), "index": numbers}


@rows(
    [
        (name, lambda tx=tx: update(tx), rf"{name.split(' ')[0]}.*at most.*N={N}")
        for name, tx in {
            r"k_sam\(k=8\)": kj.k_sam(k=8),
            r"random_sam\(m=12\)": kj.random_sam(m=12),
            r"esam\(gamma=8\)": kj.esam(gamma=8),
            r"highest_loss\(k=8\)": kj.sharpness_aware(
                kj.scale_to_radius(0.1), descent=kj.highest_loss(8)
            ),
            r"largest_increase\(gamma=9\)": kj.sharpness_aware(
                kj.scale_to_radius(0.1), descent=kj.largest_increase(np.int32(9))
            ),
            r"random_subset\(m=8\)": kj.sharpness_aware(
                kj.scale_to_radius(0.1), ascent=kj.random_subset(8)
            ),
        }.items()
    ]
    + [
        (name, lambda tx=tx: update(tx), rf"{name}.*N={N}.*pass")
        for name, tx in {
            r"k_sam\(k=5, skip=3\)": kj.k_sam(k=5, skip=3),
            r"k_sam\(k=1\.0, skip=1\)": kj.k_sam(k=1.0, skip=1),
            r"k_sam\(k=0\.5, skip=0\.6\)": kj.k_sam(k=0.5, skip=0.6),
            r"k_momentum_sam\(k=7, skip=0\.1\)": kj.k_momentum_sam(k=7, skip=0.1),
            r"highest_loss\(k=1, skip=7\)": kj.sharpness_aware(
                kj.scale_to_radius(0.1), descent=kj.highest_loss(1, 7)
            ),
        }.items()
    ]
    + [
        (
            r"highest_remembered_loss(k=8)",
            lambda: update(remembered(k=8), batch=numbered(jnp.arange(N))),
            rf"highest_remembered_loss\(k=8\).*at most.*N={N}",
        ),
        (
            "top_k_mask(k=8)",
            lambda: kj.top_k_mask(jnp.ones(N), 8),
            rf"top_k_mask\(k=8\).*at most.*N={N}",
        ),
    ]
)
def test_more_examples_than_the_batch_has_are_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()


class Numbered(NamedTuple):
    x: Any
    y: Any


@rows(
    [
        (
            "no such key",
            lambda: update(remembered()),
            r"highest_remembered_loss\(index='index'\).*key.*attribute.*batch",
        ),
        (
            "no such key of another name",
            lambda: update(remembered(index="id"), batch=numbered(jnp.arange(N))),
            r"highest_remembered_loss\(index='id'\).*key.*attribute.*batch",
        ),
        (
            "no such attribute",
            lambda: update(
                remembered(index="id"),
                batch=Numbered(**batch()),
                loss_fn=lambda p, b: losses(p, b._asdict()),
            ),
            r"highest_remembered_loss\(index='id'\).*attribute.*Numbered",
        ),
        (
            "an array as the batch",
            lambda: update(
                remembered(), batch=jnp.ones((N, 3)), loss_fn=lambda p, b: b @ p["w"]
            ),
            r"highest_remembered_loss\(index='index'\).*attribute",
        ),
        (
            "one number in two axes",
            lambda: update(remembered(), batch=numbered(jnp.ones((N, 1), int))),
            rf"highest_remembered_loss\(index='index'\).*\({N},\).*\({N}, 1\)",
        ),
        (
            "a function with too few",
            lambda: update(remembered(index=lambda b: jnp.arange(N - 1))),
            rf"highest_remembered_loss\(index=<function.*\({N},\).*\({N - 1},\)",
        ),
        (
            "a function without a result",
            lambda: update(remembered(index=lambda b: None)),
            r"highest_remembered_loss\(index=<function",
        ),
        (
            "floats",
            lambda: update(remembered(), batch=numbered(jnp.arange(7.0))),
            r"highest_remembered_loss\(index='index'\).*integers.*float32",
        ),
        (
            "bools",
            lambda: update(remembered(), batch=numbered(jnp.ones(N, bool))),
            r"highest_remembered_loss\(index='index'\).*integers.*bool",
        ),
        (
            "keys",
            lambda: update(
                remembered(), batch=numbered(jax.random.split(jax.random.key(0), N))
            ),
            r"highest_remembered_loss\(index='index'\).*integers.*key",
        ),
        (
            "too high",
            lambda: eagerly(losses, numbered(jnp.arange(N) + 44), remembered()),
            r"highest_remembered_loss\(num_examples=50\).*0 to 49.*got 50.*pass",
        ),
        (
            "negative",
            lambda: eagerly(losses, numbered(jnp.arange(N) - 1), remembered()),
            r"highest_remembered_loss\(num_examples=50\).*0 to 49.*got -1.*pass",
        ),
    ]
)
def test_index_of_the_batch_that_numbers_no_examples_is_refused(call, match):
    with pytest.raises((TypeError, ValueError), match=match):
        call()


@pytest.mark.parametrize("method", [kj.k_sam, kj.k_momentum_sam])
def test_traced_skip_is_told_of_static_args(method):
    match = rf"{method.__name__}\(skip=<traced>\).*static_args=.*\"skip\""
    with pytest.raises(TypeError, match=match):
        jax.eval_shape(lambda skip: update(method(skip=skip)), jnp.asarray(0))


def test_traced_number_of_remembered_examples_is_refused():
    def step(size: jax.Array) -> Any:
        return fresh(kj.highest_remembered_loss)(3, size)

    match = r"highest_remembered_loss\(num_examples=.*integer >= 1.*traced"
    with pytest.raises(TypeError, match=match):
        jax.eval_shape(step, jnp.asarray(50))


@pytest.mark.parametrize(
    ("argument", "method"), [("k", kj.k_sam), ("m", kj.random_sam), ("gamma", kj.esam)]
)
def test_traced_number_of_examples_is_told_of_static_args(argument, method):
    def step(value: jax.Array) -> Any:
        return update(method(**{argument: value}))

    match = rf"{method.__name__}\({argument}=.*static_args=\(\"{argument}\",\)"
    with pytest.raises((TypeError, ValueError), match=match):
        jax.eval_shape(step, jnp.asarray(0.5))


@pytest.mark.parametrize(
    ("argument", "method"), [("k", kj.k_sam), ("m", kj.random_sam), ("gamma", kj.esam)]
)
def test_injected_number_of_examples_is_told_of_static_args(argument, method):
    tx: Any = optax.inject_hyperparams(method)(**{argument: 0.5})
    p = params()

    def step() -> Any:
        state = tx.init(p)
        return tx.update(None, state, p, loss_fn=losses, batch=batch())

    with pytest.raises((TypeError, ValueError), match="static_args"):
        jax.eval_shape(step)


@pytest.mark.parametrize("method", [kj.k_sam, kj.k_momentum_sam])
def test_injected_number_of_examples_is_fine_if_static(method):
    tx: Any = optax.inject_hyperparams(method, static_args=("k",))(rho=0.1, k=0.5)

    def step(state: Any) -> Any:  # The state is traced, as under `jax.jit`.
        return tx.update(None, state, params(), loss_fn=losses, batch=batch())

    gradient, _ = jax.eval_shape(step, tx.init(params()))
    assert gradient["w"].shape == (3,)


@rows(
    [
        (
            "k_sam",
            lambda: update(kj.k_sam(k=3), updates=params()),
            r"k_sam\(k=3\).*pass None",
        ),
        (
            "random_sam",
            lambda: update(kj.random_sam(m=0.5), updates=params()),
            r"random_sam\(m=0\.5\).*pass None",
        ),
        (
            "sharpness_aware",
            lambda: update(
                kj.sharpness_aware(kj.scale_to_radius(0.1), ascent=kj.highest_loss(2)),
                updates=params(),
            ),
            r"highest_loss\(k=2\).*pass None",
        ),
        (
            "momentum_sam",
            lambda: update(kj.momentum_sam(decay=0.9), updates=params()),
            r"momentum_sam\(decay=0\.9\).*pass None",
        ),
        (
            "k_momentum_sam",
            lambda: update(kj.k_momentum_sam(decay=0.9), updates=params()),
            r"k_momentum_sam\(decay=0\.9\).*pass None",
        ),
        (
            "past_descent",
            lambda: update(
                kj.sharpness_aware(kj.scale_to_radius(0.1), ascent=kj.past_descent(0.5)),
                updates=params(),
            ),
            r"past_descent\(decay=0\.5\).*pass None",
        ),
        (
            "highest_remembered_loss",
            lambda: update(remembered(), updates=params(), batch=numbered(jnp.arange(N))),
            r"highest_remembered_loss\(k=3, num_examples=50\).*pass None",
        ),
        (
            "another structure",
            lambda: update(kj.sam(), updates={"w": jnp.ones(3)}),
            r"updates.*structure.*pass None",
        ),
        (
            "another shape",
            lambda: update(kj.sam(), updates={"w": jnp.ones(4), "b": jnp.ones(())}),
            r"updates.*\['w'\].*\(4,\).*\(3,\)",
        ),
        (
            "complex for real parameters",
            lambda: update(
                kj.sam(), updates={"w": jnp.ones(3, complex), "b": jnp.ones(())}
            ),
            r"updates.*\['w'\].*complex64.*float32",
        ),
    ]
)
def test_gradient_that_cannot_serve_as_ascent_gradient_is_refused(call, match):
    with pytest.raises((TypeError, ValueError), match=match):
        call()


@pytest.mark.parametrize("empty", [None, {}, (), optax.EmptyState()])
def test_updates_without_leaves_count_as_none(empty):
    gradient, _ = update(kj.k_sam(), updates=empty)
    assert jax.tree.map(jnp.shape, gradient) == {"w": (3,), "b": ()}


# -------------------------------------------------------------- parameters, masks

BAD_PARAMS = {
    "integer": ({"w": jnp.ones(3), "steps": jnp.arange(3)}, r"\['steps'\].*int32"),
    "bool": ({"w": jnp.ones(3), "flags": jnp.ones(3, bool)}, r"\['flags'\].*bool"),
    "key": ({"w": jnp.ones(3), "k": jax.random.key(0)}, r"\['k'\].*key"),
    "text": ({"w": jnp.ones(3), "name": "mlp"}, r"\['name'\].*str"),
    "number": ({"w": jnp.ones(3), "scale": 0.5}, r"\['scale'\].*float"),
    "empty": ({}, "params.*no leaves"),
}


@pytest.mark.parametrize("case", BAD_PARAMS)
@pytest.mark.parametrize("name", GENERAL)
def test_params_that_cannot_be_differentiated_are_refused_at_init(name, case):
    bad, match = BAD_PARAMS[case]
    with pytest.raises((TypeError, ValueError), match=f"(?s){match}"):
        GENERAL[name]().init(bad)


@pytest.mark.parametrize("case", BAD_PARAMS)
def test_params_that_cannot_be_differentiated_are_refused_at_update(case):
    bad, match = BAD_PARAMS[case]
    tx: Any = kj.sam()
    with pytest.raises((TypeError, ValueError), match=f"(?s){match}"):
        tx.update(None, tx.init(params()), bad, loss_fn=losses, batch=batch())


BAD_MASKS = {
    "another structure": {"w": True},
    "no bools": {"w": "yes", "b": True},
    "a function of another structure": lambda p: {"weights": True},
}


@pytest.mark.parametrize("case", BAD_MASKS)
@pytest.mark.parametrize("name", GENERAL)
def test_mask_that_does_not_fit_the_params_is_refused(name, case):
    with pytest.raises((TypeError, ValueError), match=r"mask=.*bools"):
        update(GENERAL[name](mask=BAD_MASKS[case]))


@pytest.mark.parametrize("case", BAD_MASKS)
@pytest.mark.parametrize(
    "make",
    [
        lambda mask: kj.asam(adaptive_mask=mask),
        lambda mask: kj.sharpness_aware(kj.scale_to_adaptive_radius(0.1, mask=mask)),
    ],
    ids=["asam", "scale_to_adaptive_radius"],
)
def test_adaptive_mask_that_does_not_fit_the_params_is_refused(make, case):
    with pytest.raises((TypeError, ValueError), match=r"mask=.*bools"):
        update(make(BAD_MASKS[case]))


def test_adaptive_radius_without_params_is_refused():
    tx = kj.scale_to_adaptive_radius(0.1)
    with pytest.raises(ValueError, match=r"scale_to_adaptive_radius.*params"):
        tx.update(params(), tx.init(params()))


# -------------------------------------------------------- reading, loose functions


def top_k_mask(losses: Any) -> Any:
    return fresh(kj.top_k_mask)(losses, 1)


@pytest.mark.parametrize("read", ["get_info", "take_aux"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: optax.sgd(0.1, momentum=0.9),
        lambda: optax.chain(optax.clip(1.0), optax.adam(0.1)),
        lambda: kj.scale_to_radius(0.1),
    ],
    ids=["sgd", "chain", "a perturbation alone"],
)
def test_state_without_a_sharpness_aware_part_is_refused(read, make):
    with pytest.raises((TypeError, ValueError), match=rf"{read}\(.*sharpness.aware"):
        getattr(kj, read)(make().init(params()))


@pytest.mark.parametrize("read", ["get_info", "take_aux"])
@pytest.mark.parametrize("thing", [None, 3.0, params()], ids=["None", "3.0", "params"])
def test_what_is_no_state_at_all_is_refused(read, thing):
    with pytest.raises((TypeError, ValueError), match=rf"{read}\(.*sharpness.aware"):
        getattr(kj, read)(thing)


@rows(
    [
        ("a scalar", lambda: top_k_mask(jnp.ones(())), r"\(N,\).*\(\)"),
        ("two axes", lambda: top_k_mask(jnp.ones((N, 2))), r"\(N,\).*\(7, 2\)"),
        ("no losses", lambda: top_k_mask(jnp.ones(0)), r"\(N,\).*\(0,\)"),
        ("complex", lambda: top_k_mask(jnp.ones(N, jnp.complex64)), "real.*complex64"),
        ("bools", lambda: top_k_mask(jnp.ones(N, bool)), "real.*bool"),
    ]
)
def test_losses_of_top_k_mask_that_cannot_be_ranked_are_refused(call, match):
    with pytest.raises((TypeError, ValueError), match=match):
        call()
