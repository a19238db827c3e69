"""The methods that the benchmark measures, and what each should cost."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import optax

import ksam_jax
from experiments.costs.benchmark import steps
from experiments.costs.benchmark.task import Task
from experiments.methods.colours import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    YELLOW,
)
from experiments.methods.combinations import remembered_k_momentum_sam, remembered_k_sam

# What of the forward pass to keep, as words; see `ksam_jax.per_example`. An integer is the
# least work per number that is worth keeping.
DEFAULT_KEEP = str(inspect.signature(ksam_jax.per_example).parameters["keep"].default)
WORDS_AND_NUMBERS = ("nothing", "300", "30", "matmuls", "all")
KEEPS = tuple(dict.fromkeys((DEFAULT_KEEP, *WORDS_AND_NUMBERS)))

# (share of the examples, number of training examples) -> the method.
Make = Callable[[float, int], optax.GradientTransformationExtraArgs]

# Share -> forward passes' worth of arithmetic per example of the batch; SGD's are 3.
Cost = Callable[[float], float]


@dataclass(frozen=True)
class Contender:
    """One method of the benchmark.

    Attributes:
      name: what the command line calls it.
      label: what tables and plots call it.
      make: makes the method; None for those that aren't ours.
      cost: what a step should cost if it computes each forward pass anew.
      shared_cost: the same if the pass that selects serves the gradient too; None for
        methods that have nothing to share.
      share: the share of the examples that it is measured with first; None if it has
        none.
      share_name: what its paper calls the share.
      has_clean_pass: whether the whole batch runs forward at the unperturbed weights.
        Where it doesn't, BatchNorm's statistics cost another forward pass.
      colour: in plots.
    """

    name: str
    label: str
    make: Make | None
    cost: Cost
    shared_cost: Cost | None = None
    share: float | None = None
    share_name: str = "k"
    has_clean_pass: bool = True
    colour: str = BLACK

    def training(
        self, task: Task, share: float | None, keep: str, n: int
    ) -> steps.Training:
        """How the method trains.

        Args:
          task: the model and its losses.
          share: of the examples; None for methods without.
          keep: see `ksam_jax.per_example`.
          n: number of examples in the training set.
        """
        if self.make is None:
            return NOT_OURS[self.name](task)
        return steps.sharpness_aware(task, self.make(share or 1.0, n), keep)

    def predicted(self, share: float | None, *, is_shared: bool, has_aux: bool) -> float:
        """What a step should cost against SGD's, by counting passes.

        Args:
          share: of the examples.
          is_shared: whether the loss lets the method share a forward pass.
          has_aux: whether the loss returns statistics.
        """
        cost = self.shared_cost if is_shared and self.shared_cost else self.cost
        extra = 1 if has_aux and not self.has_clean_pass else 0
        return (cost(share or 1.0) + extra) / 3


NOT_OURS = {"sgd": steps.sgd, "optax_sam": steps.optax_sam}

CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender("sgd", "SGD", None, lambda _: 3),
        Contender("optax_sam", "optax.contrib.sam", None, lambda _: 6, colour=SKY),
        Contender("sam", "SAM", lambda _, n: ksam_jax.sam(), lambda _: 6, colour=BLUE),
        Contender("asam", "ASAM", lambda _, n: ksam_jax.asam(), lambda _: 6, colour=SKY),
        Contender(
            "f_sam", "F-SAM", lambda _, n: ksam_jax.f_sam(), lambda _: 6, colour=ORANGE
        ),
        Contender(
            "random_sam",
            "random-subset SAM",
            lambda m, n: ksam_jax.random_sam(m=m),
            lambda m: 3 + 3 * m,
            share=0.25,
            share_name="m",
            has_clean_pass=False,
            colour=PURPLE,
        ),
        Contender(
            "esam",
            "ESAM",
            lambda gamma, n: ksam_jax.esam(gamma=gamma),
            lambda gamma: 4 + 3 * gamma,
            lambda gamma: 4 + 2 * gamma,
            share=0.5,
            share_name="gamma",
            colour=GREEN,
        ),
        Contender(
            "momentum_sam",
            "Momentum-SAM",
            lambda _, n: ksam_jax.momentum_sam(),
            lambda _: 3,
            has_clean_pass=False,
            colour=YELLOW,
        ),
        Contender(
            "k_sam",
            "K-SAM",
            lambda k, n: ksam_jax.k_sam(k=k),
            lambda k: 1 + 6 * k,
            lambda k: 1 + 5 * k,
            share=0.25,
            colour=VERMILLION,
        ),
        Contender(
            "k_momentum_sam",
            "K-Momentum-SAM",
            lambda k, n: ksam_jax.k_momentum_sam(k=k),
            lambda k: 1 + 3 * k,
            lambda k: 1 + 2 * k,
            share=0.25,
            has_clean_pass=False,
            colour=GREEN,
        ),
        Contender(
            "k_sam_remembered",
            "remembered K-SAM",
            lambda k, n: remembered_k_sam(0.05, k, n),
            lambda k: 6 * k,
            share=0.25,
            has_clean_pass=False,
            colour=ORANGE,
        ),
        Contender(
            "k_momentum_remembered",
            "remembered K-Momentum-SAM",
            lambda k, n: remembered_k_momentum_sam(0.3, 0.9, k, n),
            lambda k: 3 * k,
            share=0.25,
            has_clean_pass=False,
            colour=BLUE,
        ),
    )
}
