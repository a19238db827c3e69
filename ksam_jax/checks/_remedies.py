"""What to do about a wrong leaf or a wrong shape: the last part of a message."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# No batch has so many leaves side by side; a list of its examples has.
MANY = 8
SQUEEZE = "squeeze the axes of length 1, as losses.reshape(-1) does"


def for_leaf(path: str, leaf: Any) -> str:
    """What to pass instead of a leaf of a batch that isn't an array of JAX's or NumPy's."""
    if isinstance(leaf, str | bytes | bytearray):
        return "leave it out of batch, or encode it as integers"
    if is_foreign_array(leaf):
        return f"pass np.asarray({path})"
    if is_foreign_sparse(leaf):
        return f"pass {path}.toarray(), or a jax.experimental.sparse.BCOO with n_batch=1"
    if isinstance(leaf, Mapping):
        return f"pass dict({path})"
    if isinstance(leaf, Iterator):
        return f"pass what it yields, such as next({path})"
    if isinstance(leaf, Sequence):
        return f"pass np.asarray({path})"
    if dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
        return f"register {type(leaf).__name__} by jax.tree_util.register_dataclass"
    return "leave it out of batch"


def is_foreign_array(x: Any) -> bool:
    """Whether NumPy can read it: a tensor of PyTorch or TensorFlow, a table of pandas."""
    return any(hasattr(x, name) for name in ("__array__", "__array_interface__", "numpy"))


def is_foreign_sparse(x: Any) -> bool:
    """Whether it is a sparse matrix of SciPy's."""
    return hasattr(x, "toarray") and hasattr(x, "shape")


def for_losses(shape: tuple[int, ...], n: int) -> str:
    """How losses of a shape become one for each of n examples."""
    wrap = "or wrap one example's loss in ksam_jax.per_example"
    subset = (
        "(A subset of the batch has its own length: all that is per example belongs into "
        "batch.)"
    )
    if not shape:
        return f"remove the mean (or the sum) over the batch, {wrap}. {subset}"
    if n in shape and math.prod(shape) == n:
        return f"{SQUEEZE}."
    if n in shape and len(shape) > 1:
        axis = shape.index(n)
        others = tuple(i for i in range(len(shape)) if i != axis)
        over = others[0] if len(others) == 1 else others
        return f"take the mean over the other axes, losses.mean(axis={over})."
    size = math.prod(shape)
    if size > n and size % n == 0:
        return (
            f"if each example has {size // n} of them, one after the other, take their "
            f"mean, losses.reshape({n}, -1).mean(axis=1), {wrap}. {subset}"
        )
    stack = "or stack the examples, if batch is a list of them"
    return f"return one for each example, {wrap}, {stack}. {subset}"


def for_vector(shape: tuple[int, ...]) -> str:
    """How an array becomes one number for each example."""
    if len(shape) > 1 and math.prod(shape) == max(shape):
        return SQUEEZE
    return "pass one loss per example"


def for_no_losses(losses: Any) -> str:
    """What to return instead of something that isn't an array."""
    if is_foreign_array(losses):
        return "compute it by jax.numpy, which alone JAX can differentiate"
    return "if it returns (losses, aux), pass has_aux=True"


def for_batch(batch: Any, shapes: Mapping[str, Any]) -> str:
    """What to do about a batch whose leaves have no leading axis in common."""
    if isinstance(batch, list | tuple) and len(batch) > MANY and len(shapes) >= len(batch):
        return (
            f"if batch is a {type(batch).__name__} of examples, stack them: "
            f"jax.tree.map(lambda *rows: np.stack(rows), *batch)"
        )
    return "what isn't per example belongs into a closure of loss_fn"
