"""Measures the same steps with two builds in turn, and puts one beside the other."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from experiments.configs.benchmark import Workload
from experiments.costs import timing
from experiments.costs.baseline.builds import BASELINE, NEW, FailedError
from experiments.costs.benchmark.contenders import CONTENDERS
from experiments.costs.benchmark.measurement import in_words, quotient, spread
from experiments.costs.benchmark.plan import Case, on_own_batch
from experiments.costs.benchmark.task import make_task
from experiments.costs.timing import BURST_SECONDS, LEAST_ROUNDS
from experiments.shell.cli import RunError, UsageError

Figures = Mapping[str, Any]
# (build, case) -> seconds in each round.
Times = Mapping[tuple[str, Case], Sequence[float]]


class Asked(Protocol):
    """What `builds.Build` has, and a test's own."""

    def ask(self, name: str, *args: Any) -> Any:
        """What the method of that name of `Bench` returns there."""
        ...


Builds = Mapping[str, Asked]
Say = Callable[[str], None]


def of_model(builds: Builds, workload: Workload, config: Any, say: Say) -> dict[str, Any]:
    """Compiles, counts and times a model's steps; returns what goes into the JSON.

    Args:
      builds: NEW and BASELINE.
      workload: the model.
      config: `methods`, `keeps`, `dtype`; `rounds`, at most so many, fewer where steps are
        slow; `compiles`, how often each step is compiled.
      say: called with what is being done.

    Raises:
      UsageError: if the older library can't take a step.
      RunError: if that of today can't.
    """
    say("making the model")
    opened = [_asked(builds, n, "open", workload, config.dtype) for n in builds]
    couples = make_task(workload.build(config.dtype)).has_aux
    wanted = on_own_batch(workload, config.methods, config.keeps, couples_examples=couples)
    found = _compiled(builds, wanted, config.compiles, say)
    times = _times(builds, workload, wanted, config.rounds, say)
    rows = [_row(case, wanted[0], found, times) for case in wanted]
    return {"parameters": opened[0], "cases": rows}


def _asked(builds: Builds, name: str, what: str, given: Workload | Case, *more: Any) -> Any:
    """The build's answer, or the one line that says what it can't do."""
    try:
        return builds[name].ask(what, given, *more)
    except FailedError as error:
        where = in_words(given) if isinstance(given, Case) else given.title
        if name == NEW:
            raise RunError(f"{where}: {error}") from error
        remedy = "a later commit"
        if isinstance(given, Case):
            keeps = "another of --keeps, " if given.keep else ""
            remedy = f"{keeps}--methods without {given.method}, or a later commit"
        raise UsageError(
            f"--baseline must be a commit whose library can do what is measured; this one "
            f"can't do {where} ({error}): take {remedy}"
        ) from error


def _compiled(
    builds: Builds, wanted: Sequence[Case], compiles: int, say: Say
) -> dict[tuple[str, Case], list[Figures]]:
    found: dict[tuple[str, Case], list[Figures]] = {}
    for turn in range(compiles):
        for i, case in enumerate(wanted, 1):
            say(f"compiling {i}/{len(wanted)}, turn {turn + 1}: {in_words(case)}")
            for name in _in_turn(builds, turn + i):
                figures = _asked(builds, name, "compile", case)
                found.setdefault((name, case), []).append(figures)
    return found


def _in_turn(builds: Builds, turn: int) -> list[str]:
    """The builds' names; another one first in each turn."""
    return list(builds)[:: 1 if turn % 2 else -1]


def _times(
    builds: Builds, workload: Workload, wanted: Sequence[Case], rounds: int, say: Say
) -> Times:
    seconds: dict[Case, float] = {}
    for case in wanted:
        say(f"warming up: {in_words(case)}")
        found = [_asked(builds, name, "warm_up", case) for name in builds]
        if None not in found:
            seconds[case] = max(found)
    repeats = {case: max(1, round(BURST_SECONDS / s)) for case, s in seconds.items()}
    one_round = len(builds) * sum(repeats[case] * s for case, s in seconds.items())
    affordable = int(workload.timing_seconds * len(builds) / one_round) if seconds else 0
    rounds = min(rounds, max(LEAST_ROUNDS, affordable))
    times: dict[tuple[str, Case], list[float]] = {}
    for i in range(rounds):
        say(f"timing, round {i + 1}/{rounds} of about {one_round:.1f} s")
        # Another step goes first in each round, and the other build of every step.
        for case in _rotated(list(seconds), i):
            for name in _in_turn(builds, i):
                found = builds[name].ask("burst", case, repeats[case])
                times.setdefault((name, case), []).append(found)
    return times


def _rotated(wanted: list[Case], by: int) -> list[Case]:
    start = by % max(1, len(wanted))
    return wanted[start:] + wanted[:start]


def _row(
    case: Case,
    sgd: Case,
    found: Mapping[tuple[str, Case], Sequence[Figures]],
    times: Times,
) -> dict[str, Any]:
    def ratio(name: str, mine: tuple[str, Case], its: tuple[str, Case]) -> Any:
        return quotient(found[mine][-1][name], found[its][-1][name])

    def of(build: str) -> dict[str, Any]:
        mine, its = (build, case), (build, sgd)
        return {
            "seconds": _paired(times, mine, None),
            "time_vs_sgd": _paired(times, mine, its),
            "operations": found[mine][-1]["operations"],
            "operations_vs_sgd": ratio("operations", mine, its),
            "temporary_bytes": found[mine][-1]["temporary_bytes"],
            "temporary_vs_sgd": ratio("temporary_bytes", mine, its),
            "compile_seconds": _paired(_compile_seconds(found), mine, None),
            "compile_vs_sgd": _paired(_compile_seconds(found), mine, its),
        }

    new, old = (NEW, case), (BASELINE, case)
    return {
        **case._asdict(),
        "label": CONTENDERS[case.method].label,
        "time": _paired(times, new, old),
        "operations": ratio("operations", new, old),
        "temporary": ratio("temporary_bytes", new, old),
        "compile": _paired(_compile_seconds(found), new, old),
        NEW: of(NEW),
        BASELINE: of(BASELINE),
    }


def _compile_seconds(found: Mapping[tuple[str, Case], Sequence[Figures]]) -> Times:
    return {key: [one["compile_seconds"] for one in each] for key, each in found.items()}


def _paired(
    times: Times, mine: tuple[str, Case], its: tuple[str, Case] | None
) -> dict[str, float] | None:
    """Median and quartiles of the rounds' ratios; of the seconds, without `its`."""
    if mine not in times or (its is not None and its not in times):
        return None
    values = times[mine]
    found = (
        timing.median_and_quartiles(values)
        if its is None
        else timing.ratio(values, times[its])
    )
    return spread(found, len(values))
