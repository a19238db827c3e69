"""The convolution and the normalizations that the image models share."""

from collections.abc import Callable
from functools import partial
from typing import Any

from flax import nnx
from jax.typing import DTypeLike

# (features, rngs=...) -> a layer that normalizes.
Norm = Callable[..., Any]

_he_normal = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")


def conv(
    before: int,
    after: int,
    size: int,
    stride: int,
    dtype: DTypeLike | None,
    rngs: nnx.Rngs,
    *,
    use_bias: bool = False,
) -> nnx.Conv:
    """Returns a square convolution that keeps the resolution, but for its stride."""
    # A padding that is the same on both sides, as in the papers, whatever the stride.
    padding = [(size // 2, size // 2)] * 2
    return nnx.Conv(
        before,
        after,
        (size, size),
        strides=(stride, stride),
        padding=padding,
        use_bias=use_bias,
        kernel_init=_he_normal,
        dtype=dtype,
        rngs=rngs,
    )


def norms(dtype: DTypeLike | None) -> dict[str, Norm]:
    """Returns what makes a normalization, by the name that the models take.

    "batch" is BatchNorm, whose statistics move a tenth of the way in each step. "group"
    is GroupNorm of 32 groups, or as many below that as divide the channels: 16 for 16,
    21 for 21, and only one for 41.
    """

    def group(features: int, *, rngs: nnx.Rngs) -> nnx.GroupNorm:
        groups = max(n for n in range(1, 33) if features % n == 0)
        return nnx.GroupNorm(features, num_groups=groups, dtype=dtype, rngs=rngs)

    return {"batch": partial(nnx.BatchNorm, momentum=0.9, dtype=dtype), "group": group}
