"""The measures of flatness, one row each, and what they are for trained replicas."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxtyping import PyTree

from experiments.flatness.solutions import BATCH, Losses, in_batches, replica
from experiments.judging.rise import RADIUS
from experiments.training.evaluation import losses_of
from experiments.training.study import Extra, Study, Trained
from ksam_jax import sharpness

# Known already, and held against the accuracy as the measures are.
LOSS = "train_loss"

ASCENT_STEPS, ADAPTIVE_RADIUS, GROUP = 10, 0.5, 16
LANCZOS_STEPS, PROBES = 10, 12


class Value(NamedTuple):
    """What was measured, and how far off it may be; NaN where that isn't a question."""

    value: float
    error: float = math.nan


# (losses, parameters, batches, progress=what to call after each batch) -> value.
Take = Callable[..., Value]


@dataclass(frozen=True)
class Measure:
    """One measure of flatness; all are of the mean training loss.

    Attributes:
      title: as tables have it.
      meaning: what it is, in words.
      take: measures one replica.
      passes: how often it goes through the training examples.
    """

    title: str
    meaning: str
    take: Take
    passes: int


def _exact(measure: Callable[..., Any], **settings: Any) -> Take:
    """Of a measure that is a number, or has one as its value."""

    def take(*args: Any, **told: Any) -> Value:
        found = measure(*args, **settings, **told)
        return Value(float(getattr(found, "value", found)))

    return take


def _top_eigenvalue(*args: Any, **told: Any) -> Value:
    found = sharpness.top_eigenvalues(*args, num_steps=LANCZOS_STEPS, **told)
    return Value(float(found.values[0]), float(found.errors[0]))


def _trace(*args: Any, **told: Any) -> Value:
    found = sharpness.hessian_trace(*args, num_samples=PROBES, **told)
    return Value(float(found.value), float(found.error))


MEASURES = {
    "one_step": Measure(
        "1 step",
        f"the rise at distance {RADIUS:g} along the gradient",
        _exact(sharpness.sam_sharpness, rho=RADIUS),
        passes=2,
    ),
    "ascent": Measure(
        f"{ASCENT_STEPS} steps",
        f"the rise that {ASCENT_STEPS} steps of projected ascent find within that distance",
        _exact(sharpness.sam_sharpness, rho=RADIUS, num_steps=ASCENT_STEPS),
        passes=ASCENT_STEPS + 1,
    ),
    "adaptive": Measure(
        "adaptive",
        f"the rise at distance {ADAPTIVE_RADIUS:g} in units of each weight's size",
        _exact(sharpness.adaptive_sharpness, rho=ADAPTIVE_RADIUS),
        passes=2,
    ),
    "in_groups": Measure(
        f"m = {GROUP}",
        f"the mean rise over groups of {GROUP} examples, each at distance {RADIUS:g} along "
        "its own gradient",
        _exact(sharpness.m_sharpness, m=GROUP, rho=RADIUS),
        passes=1,
    ),
    "top_eigenvalue": Measure(
        "top eigenvalue",
        f"the Hessian's, by {LANCZOS_STEPS} steps of Lanczos",
        _top_eigenvalue,
        passes=LANCZOS_STEPS,
    ),
    "trace": Measure(
        "trace",
        f"the Hessian's, estimated with {PROBES} random vectors",
        _trace,
        passes=PROBES,
    ),
}


def described() -> dict[str, Any]:
    """What tables say of their columns, for JSON."""
    loss = {LOSS: {"title": "training loss", "meaning": "the mean cross-entropy, in nats"}}
    return loss | {
        name: {"title": measure.title, "meaning": measure.meaning}
        for name, measure in MEASURES.items()
    }


def extra(study: Study) -> Extra:
    """All measures, for `experiments.training.study`: of each a value per replica."""
    losses = losses_of(study.model)
    batches = math.ceil(study.protocol.train / BATCH)
    return Extra(
        lambda trained, advance: {"measures": measured(losses, trained, advance)},
        steps=batches * sum(measure.passes for measure in MEASURES.values()),
    )


def measured(
    losses: Losses, trained: Trained, advance: Callable[[int], None]
) -> dict[str, Any]:
    """Values and errors, one for each replica; NaN where a loss isn't finite.

    Args:
      losses: the loss of each example.
      trained: the replicas, and what they were trained on.
      advance: called with the number of batches that were gone through.
    """
    batches = in_batches(trained.train)

    def one(measure: Measure, params: PyTree) -> Value:
        try:
            return measure.take(losses, params, batches, progress=lambda *_: advance(1))
        except sharpness.NonFiniteError:
            return Value(math.nan)

    def all_of(number: int) -> dict[str, Value]:
        params = replica(trained.params, number)
        return {name: one(measure, params) for name, measure in MEASURES.items()}

    rows = [all_of(number) for number in range(trained.replicas)]
    return {
        name: {
            "values": [row[name].value for row in rows],
            "errors": [row[name].error for row in rows],
        }
        for name in MEASURES
    }
