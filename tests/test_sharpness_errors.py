"""What bad input to a measure gets: the call, the rule, the value and the remedy."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ksam_jax import sharpness

W = {"w": jnp.array([1.0, 2.0, 3.0])}
BATCH = {"x": jnp.array([[1.0, 0.0, 2.0], [0.5, 1.0, 0.0]])}


def loss_fn(params, batch):
    return (batch["x"] @ params["w"]) ** 2


MEASURES = {
    "sam_sharpness": {},
    "adaptive_sharpness": {},
    "m_sharpness": {"m": 1},
    "per_example_sharpness": {},
    "top_eigenvalues": {},
    "hessian_trace": {},
    "spectral_density": {},
    "hessian_vector_product": {"vector": W},
    "gradient_alignment": {},
    "loss_along": {"directions": [W], "at": [0.0]},
}


def measure(name, loss=loss_fn, params=W, batches=(), **options):
    batches = [BATCH] if batches == () else batches
    options = {**MEASURES[name], "progress": False, **options}
    return getattr(sharpness, name)(loss, params, batches, **options)


everywhere = pytest.mark.parametrize("name", MEASURES)


@everywhere
@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"loss": 3.0}, TypeError, "loss_fn must be a function"),
        ({"batches": []}, ValueError, "at least one batch of examples; got none"),
        ({"batches": BATCH}, TypeError, r"got type dict; pass \[batch\]"),
        (
            {"batches": (BATCH, BATCH)},
            TypeError,
            r"tuple; pass \[batch\], or list\(batches\)",
        ),
        ({"batches": 7}, TypeError, "got type int"),
        ({"batches": iter([BATCH])}, TypeError, r"pass list\(batches\)"),
        ({"batches": [{"x": jnp.ones((0, 3))}]}, ValueError, "same leading axis of N >= 1"),
        ({"batches": [{"x": jnp.ones(2), "y": jnp.ones(3)}]}, ValueError, "leading axis"),
        ({"loss": lambda p, b: jnp.sum(p["w"])}, ValueError, "one loss per example"),
        ({"params": {}}, ValueError, "params has no leaves"),
        ({"params": {"w": jnp.arange(3)}}, TypeError, "floating-point arrays"),
        ({"params": {"w": W["w"].astype(jnp.complex64)}}, TypeError, "params must be real"),
        ({"progress": None}, TypeError, "progress must be True, False or a function"),
        ({"has_aux": "no"}, TypeError, "has_aux must be True or False"),
    ],
)
def test_what_all_of_them_refuse(name, given, error, words):
    with pytest.raises(error, match=words) as caught:
        measure(name, **given)
    assert str(caught.value).startswith(name)


def test_a_slice_shows_where_the_loss_is_not_finite():
    broken = [BATCH, {"x": jnp.full((1, 3), jnp.nan)}]
    assert np.isnan(measure("loss_along", batches=broken)).all()


@pytest.mark.parametrize("name", [n for n in MEASURES if n != "loss_along"])
def test_a_loss_that_is_not_finite_is_an_error_that_names_the_example(name):
    broken = [BATCH, {"x": jnp.array([[1.0, 1.0, 1.0], [jnp.nan, 0.0, 0.0]])}]
    words = r"at params; got nan for example [13]"
    with pytest.raises(sharpness.NonFiniteError, match=words):
        measure(name, batches=broken)


def test_a_loss_that_overflows_on_the_way_up_says_so():
    with pytest.raises(ValueError, match=r"at the perturbed weights; got inf.*smaller rho"):
        measure("sam_sharpness", lambda p, b: jnp.exp(b["x"] @ p["w"]), rho=1e3)


@pytest.mark.parametrize("name", [n for n in MEASURES if n != "loss_along"])
def test_derivatives_that_are_not_finite_are_an_error(name):
    """The losses are; the first derivative at zero isn't, or the second."""

    def kink(params, batch):
        return jnp.sum(jnp.sqrt(jnp.abs(params["w"]))) * batch["x"][:, 0]

    with pytest.raises(sharpness.NonFiniteError, match="finite"):
        measure(name, kink, params={"w": jnp.array([0.0, 1.0])}, **kink_options(name))


def kink_options(name):
    return {"vector": {"w": jnp.ones(2)}} if name == "hessian_vector_product" else {}


def test_lengths_are_told_whatever_the_scale_of_the_loss():
    plain = measure("sam_sharpness")
    for scale in (1e-25, 1e30):
        found = measure("sam_sharpness", lambda p, b, s=scale: loss_fn(p, b) * s)
        assert found.gradient_norm == pytest.approx(scale * plain.gradient_norm, rel=1e-4)
        assert found.value == pytest.approx(scale * plain.value, rel=1e-2)


class Loader:
    """Batches that may differ from pass to pass, and can't be counted."""

    def __init__(self, *passes):
        self.passes = list(passes)

    def __len__(self):
        raise TypeError("the length is unknown")

    def __iter__(self):
        return iter(self.passes.pop(0))


def test_a_loader_needs_no_length_and_starts_anew():
    wanted = measure("sam_sharpness", batches=[BATCH, BATCH]).value
    twice = Loader([BATCH, BATCH], [BATCH, BATCH])
    assert measure("sam_sharpness", batches=twice).value == pytest.approx(wanted)
    for second in ([BATCH], []):
        with pytest.raises(ValueError, match=r"2 batches of 4 examples first, and then"):
            measure("sam_sharpness", batches=Loader([BATCH, BATCH], second))


@everywhere
def test_nothing_may_be_traced(name):
    with pytest.raises(TypeError, match=r"outside of jax\.jit"):
        jax.jit(lambda p: measure(name, params=p))(W)
    with pytest.raises(TypeError, match=r"outside of jax\.jit"):
        jax.jit(lambda b: measure(name, batches=[b]))(BATCH)
    with pytest.raises(TypeError, match=r"outside of jax\.jit"):
        jax.jit(lambda s: measure(name, lambda p, b: s * loss_fn(p, b)))(2.0)


@pytest.mark.parametrize("name", [n for n in MEASURES if "sharpness" in n])
@pytest.mark.parametrize("rho", [0, 0.0, -1.0, float("nan"), float("inf")])
def test_the_radius_is_above_zero(name, rho):
    with pytest.raises(ValueError, match=f"{name}.*rho must be a finite number > 0; got"):
        measure(name, rho=rho)


@pytest.mark.parametrize(
    ("name", "given", "error", "words"),
    [
        (
            "sam_sharpness",
            {"num_steps": 0},
            ValueError,
            "num_steps must be an integer >= 1",
        ),
        ("sam_sharpness", {"rho": "0.1"}, TypeError, "rho must be a finite number > 0"),
        ("sam_sharpness", {"seed": 0.5}, TypeError, "seed must be one integer"),
        ("sam_sharpness", {"mask": {"w": False}}, ValueError, "at least one parameter"),
        ("sam_sharpness", {"num_microbatches": 3}, ValueError, "must divide the number"),
        (
            "adaptive_sharpness",
            {"eta": -1.0},
            ValueError,
            "eta must be a finite number >= 0",
        ),
        ("m_sharpness", {"m": 0}, ValueError, "m must be an integer >= 1"),
        ("m_sharpness", {"m": 3}, ValueError, "m must be at most .* got a batch of 2"),
        ("top_eigenvalues", {"seed": None}, TypeError, "seed must be one integer"),
        ("top_eigenvalues", {"k": 0}, ValueError, "k must be an integer >= 1"),
        (
            "top_eigenvalues",
            {"k": 4},
            ValueError,
            "k must be at most .* measured, 3; got 4",
        ),
        (
            "top_eigenvalues",
            {"k": 2, "num_steps": 1},
            ValueError,
            "at least k=2 and at most",
        ),
        ("top_eigenvalues", {"num_steps": 4}, ValueError, "at most .* 3; got 4"),
        (
            "hessian_trace",
            {"num_samples": 1},
            ValueError,
            "num_samples must be an integer >= 2",
        ),
        ("spectral_density", {"num_samples": 0}, ValueError, "num_samples must be"),
        (
            "hessian_vector_product",
            {"vector": {"v": W["w"]}},
            ValueError,
            "tree like params",
        ),
        ("hessian_vector_product", {"vector": {"w": jnp.ones(2)}}, ValueError, "shapes"),
        ("gradient_alignment", {"ks": ()}, ValueError, "at least one k"),
        ("gradient_alignment", {"ks": (0.5, 3)}, ValueError, "batch has N=2"),
        ("gradient_alignment", {"ks": (0.0,)}, ValueError, "integer >= 1 .* or a fraction"),
        ("loss_along", {"at": [[0.0, 1.0]]}, ValueError, "at must have the shape"),
        (
            "gradient_alignment",
            {"ks": 2},
            TypeError,
            r"list of at least one k; .* pass \[2\]",
        ),
        ("gradient_alignment", {"ks": (1.0, 1)}, ValueError, "from small to large"),
        ("loss_along", {"at": []}, ValueError, "at least one point"),
        ("loss_along", {"at": "ab"}, ValueError, "at must have the shape"),
        ("loss_along", {"directions": None}, TypeError, r"pass \[direction\]"),
        ("loss_along", {"directions": []}, TypeError, "at least one tree"),
        (
            "loss_along",
            {"directions": [jnp.ones(3)]},
            ValueError,
            r"directions\[0\] must be",
        ),
    ],
)
def test_what_each_refuses(name, given, error, words):
    with pytest.raises(error, match=words) as caught:
        measure(name, **given)
    assert str(caught.value).startswith(name)


def test_directions_and_planes_say_what_does_not_fit():
    kernel = {"w": jnp.ones((2, 3))}
    with pytest.raises(ValueError, match="filter_axis must be an axis of every leaf"):
        sharpness.filter_normalized(kernel, kernel, filter_axis=2)
    with pytest.raises(ValueError, match="direction must be a tree like params"):
        sharpness.filter_normalized(kernel["w"], kernel)
    with pytest.raises(TypeError, match="seed must be one integer"):
        sharpness.random_direction(kernel, seed=None)
    double, triple = (jax.tree.map(lambda x, s=s: s * x, kernel) for s in (2.0, 3.0))
    broken = {"w": jnp.full((2, 3), jnp.nan)}
    for points in (
        (kernel, kernel, double),
        (kernel, double, triple),
        (kernel, double, broken),
    ):
        with pytest.raises(ValueError, match="must be finite, and not lie on one line"):
            sharpness.plane_through(*points)
    with pytest.raises(ValueError, match=r"least must be in \(0, 1\]"):
        sharpness.recommend_k(measure("gradient_alignment"), least=0.0)


def test_without_the_extra_the_import_says_what_to_install():
    code = (
        "import sys; sys.modules['matfree'] = None; import ksam_jax\n"
        "try:\n    import ksam_jax.sharpness\n"
        "except ModuleNotFoundError as error:\n    print(error)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert 'pip install "ksam_jax[sharpness]"' in found.stdout, found.stderr
    assert "needs matfree" in found.stdout
