"""What a model's outputs are for: the loss of each example, and the prediction."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

# Instead of a class, where outputs aren't finite: always wrong.
NONE = -1


class Objective(NamedTuple):
    """A loss and a prediction, for the outputs (..., classes) of a model.

    Attributes:
      losses: (outputs, labels) -> the loss of each example, as it is trained on.
      predictions: outputs -> the class, or the number, of each example.
    """

    losses: Callable[[Array, Array], Float[Array, " n"]]
    predictions: Callable[[Array], Array]


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Of integer labels, in nats."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def squared_error(outputs: Array, labels: Array) -> Array:
    """Of one number per example, (..., 1)."""
    return jnp.square(outputs[..., 0] - labels)


def most_likely(logits: Array) -> Array:
    """The class with the highest logit; `NONE` where logits aren't finite."""
    finite = jnp.all(jnp.isfinite(logits), -1)
    return jnp.where(finite, jnp.argmax(logits, -1), NONE)


def smoothed(share: float) -> Callable[[Array, Array], Array]:
    """Cross-entropy against labels of which a share is spread over all classes.

    Reference: Szegedy et al., Rethinking the Inception Architecture (CVPR 2016).
    """

    def losses(logits: Array, labels: Array) -> Array:
        hard = jax.nn.one_hot(labels, logits.shape[-1])
        return optax.softmax_cross_entropy(logits, optax.smooth_labels(hard, share))

    return losses if share else cross_entropy


CLASSES = Objective(cross_entropy, most_likely)
NUMBER = Objective(squared_error, lambda outputs: outputs[..., 0])


def objective(classes: int, label_smoothing: float = 0.0) -> Objective:
    """That of so many classes; of one: of a number."""
    if classes == 1:
        return NUMBER
    return CLASSES._replace(losses=smoothed(label_smoothing))
