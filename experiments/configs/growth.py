"""What `experiments.growth` measures: three kinds of model, each as large as one wants."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from experiments.configs.benchmark import CNN_64, MLP_512, VIT_TINY, Workload
from experiments.models import CNN, MLP, ViT

MILLION = 1_000_000


@dataclass(frozen=True)
class Family:
    """Models of one kind.

    Attributes:
      name: what the command line calls it.
      title: what tables call it.
      like: the shape of its examples, their classes, and the batch on which sizes are
        compared.
      model: width -> model.
      parameters: width -> how many there are, about.
      step: widths are multiples of it.
    """

    name: str
    title: str
    like: Workload
    model: Callable[[int], Callable[..., Any]]
    parameters: Callable[[float], float]
    step: int

    def workload(self, millions: float, batch: int) -> Workload:
        """The model with nearest so many parameters."""
        width = self.step * max(1, round(_width(self, millions * MILLION) / self.step))
        title = f"{self.title}, width {width}"
        return replace(self.like, title=title, model=self.model(width), batch_size=batch)


def _width(family: Family, wanted: float) -> float:
    low, high = 0.0, math.sqrt(wanted)
    for _ in range(60):
        middle = (low + high) / 2
        if family.parameters(middle) < wanted:
            low = middle
        else:
            high = middle
    return low


# Convolutions, then a dense layer of 4 x 4 positions; four blocks of 12 w^2, on 16 tokens.
FAMILIES = {
    family.name: family
    for family in (
        Family(
            "mlp",
            "MLP, two hidden layers",
            MLP_512,
            lambda width: partial(MLP, widths=(width, width)),
            lambda w: w * w + (784 + 10 + 2) * w,
            8,
        ),
        Family(
            "cnn",
            "GroupNorm CNN, three convolutions",
            replace(CNN_64, batch_size=32),
            lambda width: partial(
                CNN, channels=(width, 2 * width, 4 * width), dense=2 * width
            ),
            lambda w: (2 * 9 + 8 * 9 + 16 * 4 * 2) * w * w + 27 * w,
            4,
        ),
        Family(
            "vit",
            "ViT, four blocks, 16 tokens",
            replace(VIT_TINY, batch_size=32),
            lambda width: partial(ViT, patch=8, width=width, depth=4, heads=4),
            lambda w: 48 * w * w + 192 * w,
            8,
        ),
    )
}
