"""Filter normalization by loops over filters, in NumPy float64.

Written from the text of Li et al. (2018), section 4, for kernels whose last axis counts
the filters: each filter of the direction gets the Frobenius norm of the weights' filter,
and what isn't a filter (biases, BatchNorm's parameters) doesn't move.
"""

import numpy as np


def normalized(direction, weights):
    """One leaf of the direction."""
    direction, weights = np.array(direction, np.float64), np.array(weights, np.float64)
    result = np.zeros_like(weights)
    if weights.ndim < 2:
        return result
    for filter in range(weights.shape[-1]):
        there = direction[..., filter].ravel()
        length = sum(x * x for x in there.tolist()) ** 0.5
        wanted = sum(x * x for x in weights[..., filter].ravel().tolist()) ** 0.5
        if length > 0:
            result[..., filter] = direction[..., filter] / length * wanted
    return result
