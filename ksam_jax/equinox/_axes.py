"""Over which axes the layers of a model look at other examples."""

from typing import Any

import equinox as eqx
import jax


def axis_of(call: str, model: Any) -> Any:
    """The axis over which BatchNorm in training mode averages; None if there is none.

    Of the axes that are bound already, as those of devices, nothing has to be made.
    """
    norms = [x for x in jax.tree.leaves(model, is_leaf=_is_norm) if _is_norm(x)]
    names = [name for x in norms if not x.inference for name in _names(x.axis_name)]
    free = [name for name in dict.fromkeys(names) if not _is_bound(name)]
    if len(free) > 1:
        raise ValueError(
            f"{call}(model=...): axis_name must be the same in all layers of BatchNorm, "
            f"that of the batch; got {free}; give them one."
        )
    return free[0] if free else None


def _is_norm(x: Any) -> bool:
    return isinstance(x, eqx.nn.BatchNorm)


def _names(axis_name: Any) -> tuple[Any, ...]:
    return tuple(axis_name) if isinstance(axis_name, tuple | list) else (axis_name,)


def _is_bound(name: Any) -> bool:
    try:
        jax.lax.axis_size(name)
    except NameError:
        return False
    return True
