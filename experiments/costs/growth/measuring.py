"""Measures the cases that a file doesn't have yet, in this process."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jax

from experiments.configs.growth import FAMILIES
from experiments.costs import timing
from experiments.costs.benchmark.contenders import DEFAULT_KEEP
from experiments.costs.benchmark.measurement import spread as spread_of
from experiments.costs.benchmark.task import make_task, random_batch
from experiments.costs.devices import spread
from experiments.costs.growth import contents
from experiments.costs.growth.contents import GROWTH
from experiments.costs.growth.plan import Case

METHODS = ("sgd", "k_sam", "k_momentum_sam")


def measure_all(
    devices: int,
    cases: Sequence[Case],
    rounds: int,
    timing_seconds: float,
    path: Path,
    say: Callable[[str], None] = print,
) -> int:
    """Measures the cases on so many devices, writes each into the file, returns 0."""
    # Before JAX looks for its devices.
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)
    for i, case in enumerate(cases, 1):
        if case.devices != devices or is_there(case, GROWTH.read(path)):
            continue
        start = time.monotonic()
        found = measure(case, rounds, timing_seconds)
        took = time.monotonic() - start
        content = GROWTH.read(path)
        content["cases"].append(found)
        content["seconds"] = round(content["seconds"] + took, 1)
        GROWTH.write(path, content)
        say(f"[{i}/{len(cases)}] {in_words(found)}: {took:.0f} s")
    return 0


def is_there(case: Case, content: contents.Growth) -> bool:
    """Whether it has been measured."""
    return any(key(found) == case for found in content["cases"])


def key(found: contents.Case) -> Case:
    """What a measured case was in the plan."""
    return Case(found["model"], found["millions"], found["batch"], found["devices"])


def in_words(found: contents.Case) -> str:
    """A measured case for a person."""
    ratios = ", ".join(
        f"{name} {step['time_vs_sgd']['median']:.2f}"
        for name, step in found["steps"].items()
        if name != "sgd"
    )
    return (
        f"{found['title']}, {found['parameters'] / 1e6:.3g}M, batch {found['batch']}, "
        f"devices {found['devices']}: SGD {found['steps']['sgd']['seconds']['median']:.3g} "
        f"s, against it {ratios}"
    )


def measure(case: Case, rounds: int, timing_seconds: float) -> contents.Case:
    """Compiles, counts and times the methods' steps; returns what goes into the JSON."""
    workload = FAMILIES[case.model].workload(case.millions, case.batch)
    task = make_task(workload.build("float32"))
    programs = {
        name: spread.compiled(name, "shard_map", workload, task, case.devices, DEFAULT_KEEP)
        for name in METHODS
    }
    params, _ = jax.jit(task.init)(jax.random.key(0))
    batch = random_batch(workload, case.batch)
    bursts = {name: _warm(found, params, batch) for name, found in programs.items()}
    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    del params
    times = timing.paced(bursts, rounds, timing_seconds)
    steps = {name: _figures(programs[name].compiled, times, name) for name in METHODS}
    found = {"title": workload.title, "parameters": parameters, "steps": steps}
    return cast(contents.Case, case._asdict() | found)


def _warm(program: spread.Program, params: Any, batch: Any) -> timing.Burst:
    """Bursts of steps, of which one has been made."""
    *weights, batch = program.placed(params, batch)

    def step(weights: Any) -> Any:
        params, state, _ = program.compiled(*weights, batch)
        return params, state

    burst = timing.repeated(step, tuple(weights))
    burst(1)
    return burst


def _figures(
    compiled: Any, times: Mapping[str, Sequence[float]], name: str
) -> dict[str, Any]:
    mine, n = times[name], len(times[name])
    return {
        "operations": timing.operations(compiled),
        "bytes_moved": timing.bytes_moved(compiled),
        "temporary_bytes": timing.temporary_bytes(compiled),
        "seconds": spread_of(timing.median_and_quartiles(mine), n),
        "time_vs_sgd": spread_of(timing.ratio(mine, times["sgd"]), n),
    }
