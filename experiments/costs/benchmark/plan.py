"""Which training steps of a model the benchmark compiles, and which run in turn."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from experiments.configs.benchmark import Workload
from experiments.costs.benchmark.contenders import CONTENDERS, DEFAULT_KEEP

SHARES = (0.125, 0.25, 0.5, 1.0)
SUB_BATCHES = (8, 4, 2)
BATCH_FACTORS = (0.5, 2.0)
BATCH_METHODS = ("sgd", "sam", "k_sam", "k_momentum_sam")
MEMORY_FACTORS = (1, 2, 4)
MEMORY_METHODS = ("sgd", "sam", "k_sam")


class Case(NamedTuple):
    """One training step: a method, its share of the examples, `keep`, the batch size.

    `share` and `keep` are None where they have no meaning.
    """

    method: str
    share: float | None
    keep: str | None
    batch: int


@dataclass(frozen=True)
class Group:
    """Cases that are compared with each other.

    Attributes:
      name: "methods", "batch" or "memory".
      batch: the batch size of the group's methods; None if it varies.
      cases: each batch size's SGD is among them.
      is_timed: whether they run in turn; else they are only compiled.
    """

    name: str
    batch: int | None
    cases: tuple[Case, ...]
    is_timed: bool = True


def plan(
    workload: Workload,
    methods: Sequence[str],
    keeps: Sequence[str],
    *,
    couples_examples: bool,
    sweep: bool,
) -> list[Group]:
    """The groups of cases of one model.

    Args:
      workload: the model.
      methods: to be measured; SGD is always added.
      keeps: values of `keep` to compare.
      couples_examples: whether the loss is of a batch, so that `keep` has no meaning.
      sweep: whether to vary shares and batch sizes.
    """
    default = None if couples_examples else DEFAULT_KEEP

    def case(method: str, batch: int, share: float | None = None) -> Case:
        cost = CONTENDERS[method].cost
        keep = default if cost.shared else None
        return Case(method, share or cost.share, keep, batch)

    def among(wanted: Sequence[str]) -> list[str]:
        return [name for name in wanted if name in {"sgd", *methods}]

    size = workload.batch_size
    cases = [case(name, size) for name in among(tuple(CONTENDERS))]
    cases += [found._replace(keep=keep) for found in cases if found.keep for keep in keeps]
    cases += [case("sgd", max(1, size // part)) for part in SUB_BATCHES]
    if not sweep:
        return [Group("methods", size, _once(cases))]
    cases += [case(name, size, s) for name in among(workload.swept) for s in SHARES]
    groups = [Group("methods", size, _once(cases))]
    for factor in BATCH_FACTORS:
        batch = int(factor * size)
        group = _once([case(name, batch) for name in among(BATCH_METHODS)])
        groups.append(Group("batch", batch, group))
    compiled = [case(m, size * f) for f in MEMORY_FACTORS for m in among(MEMORY_METHODS)]
    return [*groups, Group("memory", None, _once(compiled), is_timed=False)]


def on_own_batch(
    workload: Workload,
    methods: Sequence[str],
    keeps: Sequence[str],
    *,
    couples_examples: bool,
) -> list[Case]:
    """SGD's step and the methods', on the model's own batch size alone; see `plan`."""
    wanted = plan(workload, methods, keeps, couples_examples=couples_examples, sweep=False)
    return [case for case in wanted[0].cases if case.batch == workload.batch_size]


def _once(cases: Sequence[Case]) -> tuple[Case, ...]:
    return tuple(dict.fromkeys(cases))
