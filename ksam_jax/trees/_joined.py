"""Vectors of a model as one, so that sums over all leaves are fewer programs.

Of a transformer's leaves two in three are biases and scales. XLA compiles a sum for each,
and each sum takes it as long as that over a matrix.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array

# Numbers of a vector that is copied for it: 64 kB in float32.
LONGEST = 1 << 14


def joined(parts: Sequence[Array]) -> list[Array]:
    """The parts, with all short vectors in one of them, which is the last.

    With several devices, or on a mesh, as they are: what is spread there would be gathered,
    and JAX joins no arrays whose types are spread differently. A mesh of Auto axes that
    isn't set, in a process that has one device and compiles for others, can't be seen.
    """
    short = [_is_short(x) for x in parts]
    if sum(short) < 2 or _may_be_spread(parts):
        return list(parts)
    vectors = [jnp.ravel(x) for x, is_short in zip(parts, short, strict=True) if is_short]
    others = [x for x, is_short in zip(parts, short, strict=True) if not is_short]
    return [*others, jnp.concatenate(vectors)]


def _may_be_spread(parts: Sequence[Array]) -> bool:
    if jax.device_count() > 1 or not jax.sharding.get_abstract_mesh().empty:
        return True
    return any(not jax.typeof(x).sharding.mesh.empty for x in parts)


def _is_short(x: Array) -> bool:
    return x.ndim < 2 and x.size <= LONGEST
