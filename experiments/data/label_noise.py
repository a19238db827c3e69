"""Wrong labels, to see what a method makes of them."""

import numpy as np
from jaxtyping import Int


def mislabel(
    labels: Int[np.ndarray, " n"], fraction: float, classes: int, split: int
) -> Int[np.ndarray, " n"]:
    """Replaces that fraction of the labels by another class, each equally likely."""
    # A stream of its own: the split's examples don't depend on the noise.
    rng = np.random.default_rng([split, 1])
    chosen = rng.permutation(len(labels))[: round(fraction * len(labels))]
    noisy = labels.copy()
    shift = rng.integers(1, classes, size=len(chosen), dtype=labels.dtype)
    noisy[chosen] = (noisy[chosen] + shift) % classes
    return noisy
