"""Batches that aren't plain arrays: which are trained on right, and what others get.

The values are those of the same numbers as a dense matrix, by NumPy in float64.
"""

import collections
import collections.abc
import dataclasses
import inspect
import re
import types
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import sparse
from problems import quick_jit

import ksam_jax as library

# Given what its annotations refuse.
ksam_jax: Any = library
N, FEATURES, RHO = 12, 5, 0.3


def rows(seed=0):
    """A matrix half of zeros, targets, and weights."""
    rng = np.random.default_rng(seed)
    x = np.where(rng.random((N, FEATURES)) < 0.5, rng.normal(0.2, 1, (N, FEATURES)), 0)
    return x, rng.normal(size=N), rng.normal(size=FEATURES)


X, Y, W = rows()


def losses(w, batch):
    return jnp.square(batch["x"] @ w - batch["y"])


def one_loss(w, example):
    return jnp.square(example["x"] @ w - example["y"])


FORMS = {
    "batch": losses,
    **{k: ksam_jax.per_example(one_loss, keep=k) for k in ("nothing", "all", "auto")},
}


@pytest.fixture
def in_float64():
    with jax.enable_x64(True):
        yield


def dense():
    return {"x": jnp.asarray(X), "y": jnp.asarray(Y)}


def as_bcoo():
    return {"x": sparse.BCOO.fromdense(jnp.asarray(X), n_batch=1), "y": jnp.asarray(Y)}


def step(tx, loss_fn, batch, steps=2):
    """The update after some steps at the same weights, and what the last step says."""

    def run(batch):
        w, state, update = jnp.asarray(W), tx.init(jnp.asarray(W)), None
        for _ in range(steps):
            update, state = tx.update(None, state, w, loss_fn=loss_fn, batch=batch)
        return update, ksam_jax.get_info(state)

    return quick_jit(run)(batch)


# ------------------------------------------------- nodes that know their own size


def gradient(w, rows):
    """That of the mean squared error over some rows, by hand."""
    return 2 * X[rows].T @ (X[rows] @ w - Y[rows]) / len(rows)


def test_k_sam_on_sparse_rows_is_the_step_on_the_two_highest_losses(in_float64):
    chosen = np.argsort(-np.square(X @ W - Y))[:2]
    ascent = gradient(W, chosen)
    expected = gradient(W + RHO * ascent / np.linalg.norm(ascent), chosen)
    tx = ksam_jax.k_sam(RHO, k=2, mean_over="chosen")
    for loss_fn in FORMS.values():
        found, info = step(tx, loss_fn, as_bcoo())
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        np.testing.assert_allclose(info.loss, np.square(X @ W - Y).mean(), rtol=1e-12)


METHODS = {
    "sam": ksam_jax.sam,
    "k_sam": lambda rho, **more: ksam_jax.k_sam(rho, k=2, **more),
    "coverage": ksam_jax.k_sam,
    "random_sam": lambda rho, **more: ksam_jax.random_sam(rho, m=2, **more),
    "esam": ksam_jax.esam,
    "k_momentum_sam": lambda rho, **more: ksam_jax.k_momentum_sam(rho, k=2, **more),
}
WAYS: dict[str, dict[str, Any]] = {
    "whole": {},
    "microbatches": {"num_microbatches": 2},
    "groups": {"groups": 3},
    "both": {"groups": 3, "num_microbatches": 2},
    "m-sharpness": {"groups": 3, "sync_ascent": False},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", METHODS)
def test_sparse_rows_give_the_step_of_dense_ones(name, way, in_float64):
    tx = METHODS[name](RHO, **WAYS[way])
    expected, told = step(tx, losses, dense())
    for form in ("batch", "auto"):
        found, info = step(tx, FORMS[form], as_bcoo())
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-13)
        np.testing.assert_allclose(info, told, rtol=1e-9, atol=1e-12)


def test_sparse_rows_beside_tuples_inside_of_a_class_of_ones_own(in_float64):
    batch = Rows(x=(as_bcoo()["x"], jnp.arange(N)), y=jnp.asarray(Y), n=3)
    loss_fn = lambda w, b: jnp.square(b.x[0] @ w - b.y)  # noqa: E731
    tx = METHODS["k_sam"](RHO)
    np.testing.assert_allclose(
        step(tx, loss_fn, batch)[0], step(tx, losses, dense())[0], rtol=1e-10
    )


def test_matrices_of_compressed_rows_give_the_step_of_dense_ones(in_float64):
    # A BCSR needs two axes beside that of the examples.
    matrices = np.stack([X, 2 * X, X[:, ::-1], X - 1])
    one = lambda w, e: jnp.square((e["x"] @ w).sum() - e["y"])  # noqa: E731
    tx = METHODS["k_sam"](RHO)
    batches = [
        {"x": x, "y": jnp.asarray(Y[:4])}
        for x in (
            sparse.BCSR.fromdense(jnp.asarray(matrices), n_batch=1),
            jnp.asarray(matrices),
        )
    ]
    ours, dense_ones = [step(tx, ksam_jax.per_example(one), b)[0] for b in batches]
    np.testing.assert_allclose(ours, dense_ones, rtol=1e-10)


def test_a_selection_of_ones_own_and_the_memory_see_sparse_rows(in_float64):
    def choose(evidence, state):
        # The rows with the largest norms.
        norms = jnp.square(evidence.batch["x"].todense()).sum(1)
        indices = jax.lax.top_k(norms, 2)[1]
        return ksam_jax.Chosen(indices, jnp.full((2,), 0.5)), state

    own = ksam_jax.Selection(choose)
    remembered = ksam_jax.highest_remembered_loss(2, N)
    radius = ksam_jax.scale_to_radius(RHO)
    for selection in (own, remembered):
        for more in ({}, {"groups": 3}):
            tx = ksam_jax.sharpness_aware(
                radius, ascent=selection, descent=selection, **more
            )
            index = {"index": jnp.arange(N)}
            plain = dense() | index
            if selection is own:
                plain |= {"x": sparse.BCOO.fromdense(plain["x"], n_batch=1, nse=FEATURES)}
            found, _ = step(tx, losses, as_bcoo() | index, steps=3)
            expected, _ = step(tx, losses, plain, steps=3)
            np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_sparse_aux_of_an_example_comes_back_for_the_batch(in_float64):
    def one(w, e):
        return one_loss(w, e), e["x"]

    for more in ({}, {"num_microbatches": 2}, {"groups": 3}, WAYS["m-sharpness"]):
        tx, w = ksam_jax.sam(RHO, **more), jnp.asarray(W)
        _, state = tx.update(
            None, tx.init(w), w, loss_fn=ksam_jax.per_example(one), batch=as_bcoo(),
            has_aux=True,
        )  # fmt: skip
        aux, _ = ksam_jax.take_aux(state)
        assert aux.shape == (N, FEATURES)
        np.testing.assert_array_equal(aux.todense(), X)


def test_chosen_takes_rows_of_a_sparse_matrix():
    chosen = ksam_jax.Chosen(jnp.array([7, 2]), jnp.ones(2))
    x = sparse.BCOO.fromdense(jnp.asarray(X, jnp.float32), n_batch=1)
    taken = chosen.take(x)
    assert taken.shape == (2, FEATURES)
    np.testing.assert_array_equal(taken.todense(), np.float32(X[[7, 2]]))


def test_sparse_rows_on_devices_give_the_step_of_dense_ones(in_float64):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec
    # JAX can't differentiate a product with a BCOO under check_vma=True.
    tx = ksam_jax.k_sam(RHO, k=2, axis_name="data")

    def local(batch):
        w = jnp.asarray(W)
        return tx.update(None, tx.init(w), w, loss_fn=losses, batch=batch)[0]

    run = jax.jit(
        jax.shard_map(
            local, mesh=mesh, in_specs=spec("data"), out_specs=spec(), check_vma=False
        )
    )
    expected, _ = step(ksam_jax.k_sam(RHO, k=2, groups=4), losses, dense(), steps=1)
    np.testing.assert_allclose(run(as_bcoo()), expected, rtol=1e-10)


@dataclasses.dataclass
class Rows:
    """A node of one's own, with a number that JAX doesn't look at."""

    x: Any
    y: Any
    n: int


jax.tree_util.register_dataclass(Rows, ["x", "y"], ["n"])


def of_rows(w, batch):
    return jnp.square(batch.x @ w - batch.y)


def updated(tx, loss_fn, batch, w=None, **more):
    w = jnp.asarray(W, jnp.float32) if w is None else w
    return tx.update(None, tx.init(w), w, loss_fn=loss_fn, batch=batch, **more)


def as_rows(n):
    return Rows(jnp.asarray(X, jnp.float32), jnp.asarray(Y, jnp.float32), n)


@pytest.mark.parametrize(
    ("tx", "loss_fn"),
    [
        (ksam_jax.k_sam(k=2), of_rows),
        (ksam_jax.sam(num_microbatches=2), of_rows),
        (ksam_jax.sam(), ksam_jax.per_example(of_rows)),
    ],
)
def test_a_static_number_that_may_be_that_of_the_examples_is_warned_of(tx, loss_fn):
    with pytest.warns(UserWarning, match=rf"batch, a Rows, has {N} among.*array's shape"):
        updated(tx, loss_fn, as_rows(N))


def test_no_static_number_is_warned_of_where_it_can_do_no_harm():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        updated(ksam_jax.sam(), of_rows, as_rows(N))  # The whole batch at once.
        updated(ksam_jax.k_sam(k=2), of_rows, as_rows(N + 1))
        updated(ksam_jax.k_sam(k=2), losses, {"x": X, "y": Y, "z": {N: Y}})


# ------------------------------------------------- what can't be trained on


X32 = X.astype(np.float32)
UNBATCHED = {
    "BCOO": lambda: sparse.BCOO.fromdense(jnp.asarray(X32)),
    "COO": lambda: sparse.COO.fromdense(jnp.asarray(X32)),
    "CSR": lambda: sparse.CSR.fromdense(jnp.asarray(X32)),
    "BCSR": lambda: sparse.BCSR.fromdense(jnp.asarray(X32)),
}


@pytest.mark.parametrize("kind", UNBATCHED)
def test_a_sparse_matrix_without_rows_is_refused(kind):
    x = UNBATCHED[kind]()
    match = rf"batch\['x'\] is a {kind} of shape \(12, 5\).*fromdense\(x, n_batch=1\)"
    for batch in ({"x": x}, {"x": x, "y": jnp.asarray(Y, jnp.float32)}):
        for tx in (ksam_jax.sam(), ksam_jax.k_sam(k=2)):
            with pytest.raises(ValueError, match=match):
                updated(tx, losses, batch)


class FromTorch:
    """What a tensor of another library looks like from here."""

    __module__ = "torch"
    shape, dtype = (N,), "torch.float32"

    def numpy(self):
        return Y

    def __array__(self, dtype=None, copy=None):
        return Y


class FromSciPy:
    """A sparse matrix that is no node of a tree."""

    shape = (N, FEATURES)

    def toarray(self):
        return X


class Loader(collections.abc.Iterator):
    """What walks over batches."""

    def __next__(self):
        return Y


@dataclasses.dataclass
class NotRegistered:
    x: Any


LEAVES = {
    "torch": (FromTorch(), r"type FromTorch; pass np\.asarray\(batch\['z'\]\)"),
    "scipy": (FromSciPy(), r"type FromSciPy; pass batch\['z'\]\.toarray\(\)"),
    "text": ("labels", "type str; leave it out of batch, or encode it"),
    "bytes": (b"labels", "type bytes; leave it out of batch, or encode it"),
    "mapping": (types.MappingProxyType({"a": Y}), r"pass dict\(batch\['z'\]\)"),
    "user's dict": (collections.UserDict(a=Y), r"type UserDict; pass dict\("),
    "iterator": (Loader(), r"type Loader; pass what it yields.*next\("),
    "range": (range(N), r"type range; pass np\.asarray\("),
    "deque of it": (collections.UserList(Y), r"type UserList; pass np\.asarray\("),
    "class": (NotRegistered(Y), r"register NotRegistered by jax\.tree_util\.register_da"),
    "set": ({1, 2}, "type set; leave it out of batch"),
    "object": (np.array([None] * N), "has dtype object; leave it out of batch"),
    "strings": (np.array(["a"] * N), "has dtype <U1; leave it out of batch"),
}


@pytest.mark.parametrize("kind", LEAVES)
def test_a_leaf_that_is_no_array_is_refused_with_what_to_do(kind):
    leaf, match = LEAVES[kind]
    with pytest.raises(TypeError, match=rf"(?s)batch\['z'\].*{match}"):
        updated(ksam_jax.sam(), losses, {"x": X32, "y": Y.astype(np.float32), "z": leaf})


def test_parameters_and_losses_of_another_library_are_refused_with_what_to_do():
    tx = ksam_jax.sam()
    with pytest.raises(TypeError, match=r"pass np\.asarray\(params\['w'\]\)"):
        tx.init({"w": FromTorch()})
    with pytest.raises(TypeError, match=r"got FromTorch; compute it by jax\.numpy"):
        updated(tx, lambda w, b: FromTorch(), {"x": X32})


LONGEST = 2_000


@pytest.mark.parametrize("size", [20, 5_000])
def test_a_list_of_examples_gets_one_line(size):
    examples = [(X32[i % N], np.float32(i)) for i in range(size)]
    with pytest.raises(ValueError, match=r"stack them: jax\.tree\.map.*np\.stack") as e:
        updated(ksam_jax.sam(), losses, examples)
    assert f"and {2 * size - 8:,} more" in str(e.value)
    assert len(str(e.value)) < LONGEST
    assert "\n" not in str(e.value)


MANY = {f"layer_{i}": np.ones(2, np.float32) for i in range(400)}
FEW = {"x": X32}


def fixed_losses(w, batch):
    return jnp.sum(batch["x"], 1) * sum(jnp.sum(leaf) for leaf in jax.tree.leaves(w))


def of_many(tx):
    return lambda: updated(tx, fixed_losses, FEW, MANY)


def state_of_another_kind(batch, chosen, losses, state, join):
    del batch, chosen, losses, join
    return dict(list(state.items())[:-1])


def learner():
    remembering = ksam_jax.Selection(
        lambda evidence, state: (ksam_jax.Chosen(jnp.arange(2), jnp.ones(2)), state),
        init=lambda: MANY,
        learn=state_of_another_kind,
    )
    return ksam_jax.sharpness_aware(ksam_jax.scale_to_radius(0.1), ascent=remembering)


LONG: dict[str, Any] = {
    "leaves": lambda: updated(
        ksam_jax.sam(), losses, MANY | {"x": X32, "y": np.float32(1)}
    ),
    "mask": of_many(ksam_jax.sam(mask=MANY | {"layer_0": (True, False)})),
    "gradient": lambda: ksam_jax.sam().update(
        dict(list(MANY.items())[1:]),
        ksam_jax.sam().init(MANY),
        MANY,
        loss_fn=fixed_losses,
        batch=FEW,
    ),
    "state": of_many(learner()),
    "empty": lambda: ksam_jax.sam().init(dict.fromkeys(MANY)),
    "rho": lambda: ksam_jax.sam(list(range(100_000))),
    "k": lambda: ksam_jax.k_sam(k=list(range(100_000))),
    "loss_fn": lambda: updated(ksam_jax.sam(), MANY, FEW),
    "groups": lambda: ksam_jax.sam(groups="x" * 100_000),
    "keep": lambda: ksam_jax.per_example(one_loss, keep="x" * 100_000),
    "seed": lambda: ksam_jax.random_sam(seed=list(range(100_000))),
    "boundaries": lambda: ksam_jax.join_methods(
        [ksam_jax.sam()] * 10_001, [*range(1, 10_000), 5]
    ),
    "perturbation": lambda: inspect.unwrap(ksam_jax.sharpness_aware)(MANY),
}


@pytest.mark.parametrize("kind", LONG)
def test_no_message_is_long(kind):
    with pytest.raises((TypeError, ValueError), match=r"characters\.\.\.|more") as e:
        LONG[kind]()
    assert len(str(e.value)) < LONGEST


# ------------------------------------------------- losses of another shape


SHAPES = {
    (): r"remove the mean \(or the sum\)",
    (N, 1): "squeeze the axes of length 1",
    (1, N): "squeeze the axes of length 1",
    (N, 1, 1): "squeeze the axes of length 1",
    (N, 4): r"take the mean over the other axes, losses\.mean\(axis=1\)",
    (N, 4, 3): r"take the mean over the other axes, losses\.mean\(axis=\(1, 2\)\)",
    (4, N): r"take the mean over the other axes, losses\.mean\(axis=0\)",
    (4 * N,): r"if each example has 4 of them.*losses\.reshape\(12, -1\)\.mean\(axis=1\)",
    (N - 1,): "return one for each example.*own length",
}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ["sam", "k_sam"])
def test_losses_of_another_shape_get_their_own_remedy(name, shape):
    got = re.escape(f"got shape {shape}; ")
    with pytest.raises(ValueError, match=rf"shape \(12,\); {got}{SHAPES[shape]}"):
        updated(METHODS[name](RHO), lambda w, b: jnp.zeros(shape) + w[0], FEW)


@pytest.mark.parametrize("keep", ["auto", "nothing", "all"])
def test_a_loss_of_an_example_that_is_no_scalar_gets_its_own_remedy(keep):
    for shape, remedy in (((1,), "squeeze"), ((4, 3), "take the mean over the other")):
        one = lambda w, e: jnp.zeros(shape) + w[0]  # noqa: E731
        with pytest.raises(ValueError, match=remedy):
            updated(METHODS["k_sam"](RHO), ksam_jax.per_example(one, keep=keep), FEW)


def test_a_matrix_of_losses_is_refused_with_its_remedy_where_they_are_ranked():
    with pytest.raises(ValueError, match="squeeze the axes of length 1"):
        inspect.unwrap(ksam_jax.top_k_mask)(jnp.ones((N, 1)), k=2)
