"""The base optimizers, which stand behind the methods, and their learning rates."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from experiments.configs.experiment import Experiment

SCHEDULES = ("cosine", "linear")
# Parameters with these names aren't decayed unless all are: they don't make a layer's
# output grow with its input.
UNDECAYED = ("bias", "scale")


def sgd(
    learning_rate: Any,
    weight_decay: Any,
    momentum: float,
    mask: Callable[[PyTree], PyTree] | None = None,
) -> optax.GradientTransformation:
    """SGD with momentum, and weight decay that is added to the gradient.

    Args:
      learning_rate: a number or a schedule.
      weight_decay: times the weights.
      momentum: of the gradients.
      mask: parameters -> which of them are decayed; None: all.
    """
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask),
        optax.sgd(learning_rate, momentum=momentum),
    )


def adamw(
    learning_rate: Any,
    weight_decay: Any,
    momentum: float,
    mask: Callable[[PyTree], PyTree] | None = None,
) -> optax.GradientTransformation:
    """AdamW (Loshchilov & Hutter, 2019) with the second moment's decay of BERT, 0.999.

    Args:
      learning_rate: a number or a schedule.
      weight_decay: times the weights and the learning rate, beside Adam's step.
      momentum: of the gradients; usually 0.9.
      mask: parameters -> which of them are decayed; None: all.
    """
    return optax.adamw(learning_rate, b1=momentum, weight_decay=weight_decay, mask=mask)


OPTIMIZERS = {"sgd": sgd, "adamw": adamw}


def of(
    experiment: Experiment, steps: int, learning_rate: Any, weight_decay: Any
) -> optax.GradientTransformation:
    """An experiment's optimizer, which stands behind its method.

    Args:
      experiment: names it, and has all other settings.
      steps: of the whole training.
      learning_rate: the highest one; its own, or a replica's.
      weight_decay: likewise.
    """
    base = OPTIMIZERS[experiment.optimizer](
        schedule(learning_rate, steps, experiment.schedule, experiment.warmup),
        weight_decay,
        experiment.momentum,
        None if experiment.decay_all else matrices,
    )
    if experiment.clip is None:
        return base
    return optax.chain(optax.clip_by_global_norm(experiment.clip), base)


def schedule(
    learning_rate: Any, steps: int, falls: str = "cosine", warmup: float = 0.0
) -> optax.Schedule:
    """A learning rate that rises linearly from 0, and falls to 0 at the last step.

    Args:
      learning_rate: the highest one.
      steps: of the whole training.
      falls: as a "cosine", or "linear".
      warmup: share of the steps in which it rises; the first one isn't lost to 0.
    """
    # The last step is at the height at least: a fall takes a step.
    rising = min(round(warmup * steps), steps - 1)
    fall = _fall(learning_rate, steps - rising, falls)
    if not rising:
        return fall

    def rate(count: Any) -> Array:
        rise = learning_rate * (jnp.asarray(count, jnp.float32) + 1) / (rising + 1)
        return jnp.where(count < rising, rise, fall(count - rising))

    return rate


def _fall(learning_rate: Any, steps: int, falls: str) -> optax.Schedule:
    if falls == "linear":
        return optax.linear_schedule(learning_rate, 0.0, steps)
    return optax.cosine_decay_schedule(learning_rate, steps)


def matrices(params: PyTree) -> PyTree:
    """Which parameters are neither biases nor scales of a norm, by their names."""

    def is_decayed(path: tuple[Any, ...], leaf: Any) -> bool:
        del leaf
        names = {str(getattr(key, "key", getattr(key, "name", key))) for key in path}
        return not names & set(UNDECAYED)

    return jax.tree_util.tree_map_with_path(is_decayed, params)
