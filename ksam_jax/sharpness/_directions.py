"""Directions in which to look at the loss: random and comparable, or through solutions."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ..checks import _values
from ..checks._words import shown
from ..trees._keys import key_of
from ..trees._lengths import inner, norm
from ..trees._mask import only, perturbed_leaves
from ..trees._numbers import ratio
from . import _arguments
from ._compiled import Leaves

# What is smaller beside a difference of weights is its rounding.
ROUNDING = 1e-5


class Plane(NamedTuple):
    """A plane through three points of the space of weights.

    Attributes:
      origin: the first of them.
      directions: two of length one, at right angles, trees like the origin.
      coordinates: of the three along the two directions, shape (3, 2), in the parameters'
        units; the first is (0, 0).
    """

    origin: PyTree
    directions: list[PyTree]
    coordinates: Float[np.ndarray, "3 2"]


def random_direction(
    params: PyTree, *, seed: Any = 0, filter_axis: Any = -1, mask: Any = None
) -> PyTree:
    r"""A Gaussian direction with filters as long as those of the weights.

    .. math:: d_{ij} \leftarrow \frac{d_{ij}}{\|d_{ij}\|} \|w_{ij}\|

    for filter j of layer i, so that slices of networks whose weights differ in size can be
    compared. Biases and norm parameters, leaves of at most one axis, don't move.

    Args:
      params: pytree of floating-point arrays.
      seed: of the direction; the same for every solution that is to be compared.
      filter_axis: the axis of a leaf that counts its filters: -1 for kernels (in, out) and
        (height, width, in, out) as in Flax and Haiku, 0 for (out, in) as in Equinox.
      mask: which parameters move; None for all of two axes or more.

    Returns:
      A tree like `params`, in float32 or wider; one unit of it changes each filter by as
      much as there is.

    Raises:
      ValueError: if `params` is empty, `mask` doesn't fit it, or a leaf has no such axis.
      TypeError: if `params` aren't real arrays, or `seed` or `filter_axis` no integer.

    Example:
      >>> import jax.numpy as jnp
      >>> from ksam_jax import sharpness
      >>> w = {"kernel": jnp.array([[3.0, 0.0], [4.0, 2.0]]), "bias": jnp.ones(2)}
      >>> direction = sharpness.random_direction(w, seed=1)
      >>> jnp.linalg.norm(direction["kernel"], axis=0).round(4).tolist()
      [5.0, 2.0]
      >>> direction["bias"].tolist()
      [0.0, 0.0]

    Reference:
      Li et al., Visualizing the Loss Landscape of Neural Nets, NeurIPS 2018, section 4.
    """
    call = "random_direction"
    _values.seed(call, seed)
    params = _arguments.parameters(call, params)
    leaves, treedef = jax.tree.flatten(params)
    draws = treedef.unflatten(gaussian(leaves, seed))
    direction = _normalized(call, draws, params, filter_axis)
    return only(perturbed_leaves(call, mask, params), direction)


def gaussian(leaves: Leaves, seed: Any) -> Leaves:
    """Normal numbers in the shapes and the places of the leaves."""
    keys = jax.random.split(key_of(seed), len(leaves))
    return [
        jax.device_put(jax.random.normal(key, x.shape, x.dtype), x.sharding)
        for key, x in zip(keys, leaves, strict=True)
    ]


def filter_normalized(
    direction: PyTree, params: PyTree, *, filter_axis: Any = -1
) -> PyTree:
    r"""A direction with filters as long as those of the weights; see `random_direction`.

    .. math:: d_{ij} \leftarrow \frac{d_{ij}}{\|d_{ij}\|} \|w_{ij}\|

    Args:
      direction: a tree like `params`.
      params: pytree of floating-point arrays.
      filter_axis: the axis of a leaf that counts its filters.

    Returns:
      A tree like `params`; zero for leaves of at most one axis, and for filters where
      either is zero.

    Raises:
      ValueError: if `direction` isn't like `params`, or a leaf has no such axis.
      TypeError: if `params` aren't real arrays, or `filter_axis` isn't an integer.

    Example:
      >>> import jax.numpy as jnp
      >>> from ksam_jax import sharpness
      >>> weights = jnp.array([[3.0, 0.0], [4.0, 2.0]])
      >>> direction = jnp.array([[1.0, 0.0], [0.0, 0.5]])
      >>> sharpness.filter_normalized(direction, weights).tolist()
      [[5.0, 0.0], [0.0, 2.0]]

    Reference:
      Li et al., Visualizing the Loss Landscape of Neural Nets, NeurIPS 2018, section 4.
    """
    call = "filter_normalized"
    params = _arguments.parameters(call, params)
    direction = _arguments.like_parameters(call, "direction", direction, params)
    return _normalized(call, direction, params, filter_axis)


def _normalized(call: str, direction: PyTree, params: PyTree, filter_axis: Any) -> PyTree:
    if isinstance(filter_axis, bool) or not isinstance(filter_axis, int):
        raise TypeError(
            f"{call}(filter_axis={shown(filter_axis)}): filter_axis must be an integer; "
            f"got type {type(filter_axis).__name__}; pass -1 or 0."
        )

    def normalized(path: Any, d: Any, w: Array) -> Array:
        if w.ndim <= 1:
            return jnp.zeros_like(w)
        if not -w.ndim <= filter_axis < w.ndim:
            raise ValueError(
                f"{call}(filter_axis={filter_axis}): filter_axis must be an axis of every "
                f"leaf of two axes or more, and params{jax.tree_util.keystr(path)} has "
                f"shape {w.shape}; pass -1 or 0."
            )
        d = jnp.asarray(d).astype(w.dtype)
        others = tuple(i for i in range(w.ndim) if i != filter_axis % w.ndim)
        wanted, there = (
            jnp.sqrt(jnp.sum(x**2, axis=others, keepdims=True)) for x in (w, d)
        )
        return d * ratio(wanted, there)

    return jax.tree.map_with_path(normalized, direction, params)


def plane_through(first: PyTree, second: PyTree, third: PyTree) -> Plane:
    r"""The plane through three solutions, for `loss_along`.

    .. math:: d_1 = \frac{w_2 - w_1}{\|w_2 - w_1\|}, \qquad
      d_2 \propto (w_3 - w_1) - \langle w_3 - w_1, d_1 \rangle \, d_1

    Args:
      first: pytree of floating-point arrays, the origin.
      second: a tree like it; the first direction points there.
      third: likewise; it is above the first direction.

    Returns:
      A `Plane`.

    Raises:
      ValueError: if they aren't alike, or lie on one line.
      TypeError: if they aren't real arrays.

    Example:
      >>> import jax.numpy as jnp
      >>> from ksam_jax import sharpness
      >>> a, b, c = jnp.zeros(3), jnp.array([2.0, 0, 0]), jnp.array([1.0, 3.0, 0])
      >>> sharpness.plane_through(a, b, c).coordinates.tolist()
      [[0.0, 0.0], [2.0, 0.0], [1.0, 3.0]]

    Reference:
      Garipov et al., Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs,
      NeurIPS 2018.
    """
    call = "plane_through"
    origin = _arguments.parameters(call, first, "first")
    others = []
    for name, point in (("second", second), ("third", third)):
        point = _arguments.parameters(call, point, name)
        point = _arguments.like_parameters(call, name, point, origin, "first")
        others.append(jax.tree.map(jnp.subtract, point, origin))
    across, above = others
    width, reach = float(norm(across)), float(norm(above))
    _apart(call, width, width)
    unit = jax.tree.map(lambda x: x / width, across)
    along = float(inner(unit, above))
    upward = jax.tree.map(lambda y, x: y - along * x, above, unit)
    height = float(norm(upward))
    _apart(call, height, reach)
    upward = jax.tree.map(lambda x: x / height, upward)
    coordinates = np.array([[0.0, 0.0], [width, 0.0], [along, height]])
    return Plane(origin, [unit, upward], coordinates)


def _apart(call: str, distance: float, beside: float) -> None:
    """Checks a distance between points, or of one from the line through the others."""
    if not np.isfinite(distance) or distance <= ROUNDING * beside:
        raise ValueError(
            f"{call}(first, second, third): they must be finite, and not lie on one line; "
            f"got a distance of {distance:g} between two of them, or of one from the line "
            f"through the others; pass three different solutions."
        )
