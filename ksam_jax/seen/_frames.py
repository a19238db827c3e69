"""Which layer an equation of a trace was written by: its name in the traceback."""

import re
from typing import Any

import jax
import jax.numpy as jnp

# BatchNorm, SyncBatchNorm, BatchNorm2d, batch_norm, BatchNormalization.
_NAME = re.compile(
    r"_*(my|our|simple|custom|masked|ghost|sync|synced|cross_?replica)?_?"
    r"batch_?norm(alization)?_?([123]d)?(layer|module|act)?",
    re.IGNORECASE,
)


def is_batchnorm(eqn: Any, above: str) -> bool:
    """Whether BatchNorm stands between the equation and the function `above`."""
    traceback = eqn.source_info.traceback
    for frame in traceback.frames if traceback is not None else ():
        names = frame.function_name.split(".")
        if names[-1] == above:
            return False
        if any(_NAME.fullmatch(name) for name in names):
            return True
    return False


def is_of_a_library(name: str) -> bool:
    """Whether a jitted function is JAX's own: its trace may be that of another layer."""
    plain = name.lstrip("_")
    return any(hasattr(module, plain) for module in (jnp, jnp.linalg, jax.nn, jax.lax))
