"""What a model in use says of examples, the same for every program that looks at it."""

from typing import Any, NamedTuple

from jaxtyping import Array, Float

from experiments.judging.objectives import Objective
from experiments.models.pure import PureModel, Variables


class Look(NamedTuple):
    """Of each example.

    Attributes:
      predictions: (n,), the class or the number.
      losses: (n,), without label smoothing, so that they compare between experiments.
    """

    predictions: Array
    losses: Float[Array, " n"]


def look(
    model: PureModel, objective: Objective, variables: Variables, inputs: Any, labels: Any
) -> Look:
    """The model's predictions and losses, as in use: nothing is dropped or moved.

    Args:
      model: that is looked at.
      objective: what its outputs are for.
      variables: of the model.
      inputs: (n, ...), as the model reads them.
      labels: (n,).
    """
    outputs = model.logits(variables.params, inputs, variables.rest)
    return Look(objective.predictions(outputs), objective.losses(outputs, labels))
