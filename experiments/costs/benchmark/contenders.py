"""The methods that the benchmark measures: those whose row has a cost, and others'."""

import inspect
from dataclasses import dataclass, replace

import ksam_jax
from experiments.costs.benchmark import least, steps
from experiments.costs.benchmark.task import Task
from experiments.methods import Method, from_known_to_ours, without_share
from experiments.methods.cost import Cost
from experiments.methods.palette import SKY

# What of the forward pass to keep, as words; see `ksam_jax.per_example`. An integer is the
# least work per number that is worth keeping.
DEFAULT_KEEP = str(inspect.signature(ksam_jax.per_example).parameters["keep"].default)
WORDS_AND_NUMBERS = ("nothing", "300", "30", "matmuls", "all")
KEEPS = tuple(dict.fromkeys((DEFAULT_KEEP, *WORDS_AND_NUMBERS)))

# As anyone writes them, without this library.
NOT_OURS = {"sgd": steps.sgd, "optax_sam": steps.optax_sam}


@dataclass(frozen=True)
class Contender:
    """One method of the benchmark.

    Attributes:
      name: what the command line calls it.
      label: what tables and plots call it, whatever its share.
      cost: what a step should cost.
      colour: in plots.
      remembers: whether it takes the number of training examples.
    """

    name: str
    label: str
    cost: Cost
    colour: str
    remembers: bool = False

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
        if self.name in WRITTEN_OUT:
            return least.LEAST[WRITTEN_OUT[self.name]](task, share)
        if self.name in NOT_OURS:
            return NOT_OURS[self.name](task)
        more = {"num_examples": n} if self.remembers else {}
        return steps.sharpness_aware(task, self.cost.made(share, **more), keep)


OPTAX_SAM = Contender("optax_sam", "optax.contrib.sam", Cost(None, lambda _: 6), SKY)


def _of(row: Method) -> list[Contender]:
    if row.cost is None:
        return []
    colour = row.cost.colour or row.colour
    mine = Contender(row.name, without_share(row.name), row.cost, colour, row.remembers)
    # Theirs stands before ours.
    return [mine, OPTAX_SAM] if row.name == "sgd" else [mine]


# Measured without being asked for.
USUAL = {
    contender.name: contender
    for row in from_known_to_ours().values()
    for contender in _of(row)
}
# What is written out runs the chosen examples again, unless the model is an MLP.
WRITTEN_OUT = {f"least_{name}": name for name in least.LEAST}


def _written_out(name: str, method: str) -> Contender:
    its = USUAL[method]
    # Statistics are those of a pass that there is anyway.
    cost = replace(its.cost, make=None, shared=None, aux_is_free=True)
    return Contender(name, f"least {its.label}", cost, its.colour)


CONTENDERS = USUAL | {name: _written_out(name, its) for name, its in WRITTEN_OUT.items()}
