"""Measures the groups of a plan, and puts each figure beside SGD's and the prediction."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from experiments.costs import timing
from experiments.costs.benchmark.contenders import CONTENDERS
from experiments.costs.benchmark.plan import Case, Group
from experiments.costs.benchmark.programs import Model, Program

Times = Mapping[Case, Sequence[float]]
Programs = Mapping[Case, Program]


def measure(
    model: Model,
    groups: Sequence[Group],
    rounds: int,
    say: Callable[[str], None] = lambda text: None,
    threads: int = 1,
) -> list[dict[str, Any]]:
    """Compiles and times what the groups ask for; returns what goes into the JSON.

    Args:
      model: what is trained.
      groups: cases to compare; a case in several groups is compiled once.
      rounds: at most so many, fewer where steps are slow.
      say: called with what is being done.
      threads: that compile side by side; if more than one, what times of compilation say
        depends on it.
    """
    cases = list(dict.fromkeys(case for group in groups for case in group.cases))
    programs: dict[Case, Program] = {}

    def compiled(case: Case) -> None:
        say(f"compiling {len(programs) + 1}/{len(cases)}: {in_words(case)}")
        programs[case] = model.compile(case)

    if threads == 1:
        for case in cases:
            compiled(case)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(compiled, cases))
    return [_measured(model, group, programs, rounds, say) for group in groups]


def in_words(case: Case) -> str:
    """A case for a person."""
    contender = CONTENDERS[case.method]
    share = f", {contender.cost.share_name} = {case.share:g}" if case.share else ""
    keep = f', keep "{case.keep}"' if case.keep else ""
    return f"{contender.label}{share}{keep}, batch {case.batch}"


def _measured(
    model: Model,
    group: Group,
    programs: Programs,
    rounds: int,
    say: Callable[[str], None],
) -> dict[str, Any]:
    times = _times(model, group, programs, rounds, say) if group.is_timed else {}
    best = _best_sub_batch(times)
    figures = [_figures(programs, times, best, model.task.has_aux, c) for c in group.cases]
    about = {"name": group.name, "batch": group.batch}
    if best is not None and group.name == "methods":
        seconds = statistics.median(times[best]) / best.batch
        about["best_sub_batch"] = {
            "batch": best.batch,
            "sgd_seconds_per_example": seconds,
        }
    return about | {"cases": figures}


def _times(
    model: Model,
    group: Group,
    programs: Programs,
    rounds: int,
    say: Callable[[str], None],
) -> Times:
    say(f"warming up {len(group.cases)} programs")
    warmed = {case: model.warmed_up(programs[case]) for case in group.cases}
    bursts = {case: burst for case, burst in warmed.items() if burst is not None}
    most = model.workload.timing_seconds / (1 if group.name == "methods" else 4)
    return timing.paced(bursts, rounds, most, say)


def _best_sub_batch(times: Times) -> Case | None:
    """The size at which SGD's time per example is least."""
    sizes = [case for case in times if case.method == "sgd"]
    return min(sizes, key=lambda c: statistics.median(times[c]) / c.batch, default=None)


def _figures(
    programs: Programs, times: Times, best: Case | None, has_aux: bool, case: Case
) -> dict[str, Any]:
    program, sgd = programs[case], programs[_sgd(case)]
    is_shared = case.keep not in (None, "nothing")
    predicted = CONTENDERS[case.method].cost.predicted(
        case.share, is_shared=is_shared, has_aux=has_aux
    )
    return {
        **case._asdict(),
        "label": CONTENDERS[case.method].label,
        "predicted_vs_sgd": predicted,
        "operations": program.operations,
        "operations_vs_sgd": quotient(program.operations, sgd.operations),
        "temporary_bytes": program.temporary_bytes,
        "temporary_vs_sgd": quotient(program.temporary_bytes, sgd.temporary_bytes),
        "lower_seconds": program.lower_seconds,
        "compile_seconds": program.compile_seconds,
        **_time_figures(times, best, case),
    }


def _time_figures(times: Times, best: Case | None, case: Case) -> dict[str, Any]:
    if case not in times:
        return {"seconds": None, "time_vs_sgd": None, "time_vs_best_sub_batch": None}
    mine = times[case]
    own = spread(timing.median_and_quartiles(mine), len(mine))
    figures: dict[str, Any] = {"seconds": own}
    for name, reference in {
        "time_vs_sgd": _sgd(case),
        "time_vs_best_sub_batch": best,
    }.items():
        if reference is None or reference not in times:
            figures[name] = None
            continue
        its = [case.batch / reference.batch * seconds for seconds in times[reference]]
        figures[name] = spread(timing.ratio(mine, its), len(mine))
    return figures


def _sgd(case: Case) -> Case:
    return Case("sgd", None, None, case.batch)


def spread(values: tuple[float, float, float], n: int) -> dict[str, float]:
    """Median and quartiles of so many values, as results have them."""
    median, lower, upper = values
    return {"n": n, "median": median, "lower_quartile": lower, "upper_quartile": upper}


def quotient(mine: float | None, its: float | None) -> float | None:
    """The ratio; None where one is missing or there is nothing to divide by."""
    return None if mine is None or not its else mine / its
