"""Measures what a training step of each method costs, beside SGD in the same run.

Trains an MLP, a GroupNorm CNN, ResNet-18 with BatchNorm, a ViT and a transformer for a
few steps with SGD, optax.contrib.sam and every method of ours, in turn and after warming
up, and prints for each: time, operations, memory and compile time, against SGD's and
against what counting passes predicts; then what `keep` changes, and the same for other
shares k and batch sizes. Data are random: only costs are measured.

Writes OUT/benchmark/MODEL.json when a model is done, and at the end ratio_against_k.png
and memory.png. A run that was stopped goes on with the models that are missing, if
options, versions and machine are the same.

With --baseline COMMIT the same steps are measured with the library of an older commit, in
turn with today's, and one is put beside the other: time, operations, memory, and time to
trace and compile. Only ksam_jax is of that commit; models and steps are those of today. It
writes OUT/benchmark/baseline/MODEL.json.

The methods called "least" are written out without this library, as little as a step can be:
beside them stands what the library adds.

On an accelerator the models and batches are larger. With its defaults it takes about
half an hour on two cores.

Example: python -m experiments.benchmark --models mlp --rounds 3 --no-sweep
Example: python -m experiments.benchmark --baseline HEAD~20 --models vit --methods sam k_sam
"""

import datetime
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import jax
from rich.console import Console
from tyro.conf import arg

from experiments.configs.benchmark import CPU, Workload, workloads
from experiments.costs.baseline import commits, paired, table
from experiments.costs.baseline.builds import BASELINE, NEW, SHARED, both, here
from experiments.costs.baseline.contents import BASELINES
from experiments.costs.benchmark import plots, record, report
from experiments.costs.benchmark.contenders import (
    CONTENDERS,
    DEFAULT_KEEP,
    KEEPS,
    USUAL,
)
from experiments.costs.benchmark.contents import BENCHMARK, Benchmark
from experiments.costs.benchmark.measurement import measure
from experiments.costs.benchmark.plan import plan
from experiments.costs.benchmark.programs import Model
from experiments.costs.benchmark.task import make_task
from experiments.shell import cli, progress
from experiments.shell.formats import Content, Format

PROG = "python -m experiments.benchmark"
DTYPES = ("float32", "bfloat16")

# Is told what is being done.
Say = Callable[[str], None]


@dataclass(frozen=True)
class Config:
    """Options of the benchmark."""

    models: Annotated[
        tuple[str, ...],
        arg(
            metavar="NAME ...",
            help="Any of " + ", ".join(f"{n} ({w.title})" for n, w in CPU.items()) + ".",
            help_behavior_hint="(default: all)",
        ),
    ] = tuple(CPU)
    methods: Annotated[
        tuple[str, ...],
        arg(
            metavar="NAME ...",
            help="Any of "
            + ", ".join(f"{name} ({c.label})" for name, c in CONTENDERS.items())
            + ". SGD is always measured.",
            help_behavior_hint="(default: all but the least)",
        ),
    ] = tuple(USUAL)
    keeps: Annotated[
        tuple[str, ...] | None,
        arg(
            metavar="NAME ...",
            help="What of the forward pass that selects is kept for the gradient: auto, "
            "nothing, matmuls, all, or an integer (products of at least so much work per "
            "number).",
            help_behavior_hint=f"(default: {' '.join(KEEPS)}; with --baseline: "
            f"{DEFAULT_KEEP})",
        ),
    ] = None
    batch_size: Annotated[
        int | None,
        arg(
            metavar="INT",
            help="Examples per step.",
            help_behavior_hint="(default: the model's own)",
        ),
    ] = None
    dtype: Annotated[
        str,
        arg(
            metavar="{" + ",".join(DTYPES) + "}",
            help="Of the computation. Parameters are float32.",
        ),
    ] = "float32"
    rounds: Annotated[
        int, arg(help="Rounds of timing; fewer, but at least 3, where steps are slow.")
    ] = 25
    sweep: Annotated[
        bool, arg(help="Whether to vary the share k and the batch size, too.")
    ] = True
    baseline: Annotated[
        str | None,
        arg(
            metavar="COMMIT",
            help="Measure the library of this commit, too, instead of the sweep.",
            help_behavior_hint="(default: only that of today)",
        ),
    ] = None
    compiles: Annotated[
        int, arg(help="With --baseline: how often each step is compiled.")
    ] = 3
    out: Annotated[
        Path, arg(metavar="DIR", help="Results go into the folder benchmark in it.")
    ] = Path("results")
    restart: Annotated[
        bool, arg(help="Measure all again, also what an earlier run has measured.")
    ] = False


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark and returns the exit status."""
    given = cli.parse(Config, argv, PROG, __doc__ or "")
    if given.baseline is not None:
        given = replace(given, baseline=commits.resolved(here(), given.baseline))
        # Three processes will share an accelerator's memory.
        os.environ.update(SHARED)
    chosen = _checked(given)
    folder = cli.writable(given.out / "benchmark")
    console = progress.console()
    if given.baseline is not None:
        _beside(chosen, given, folder / "baseline", console)
        return 0
    contents: list[Benchmark] = []
    for i, workload in enumerate(chosen, 1):
        where = f"[{i}/{len(chosen)}] {workload.title}"
        found = _content(BENCHMARK, workload, given, folder, console, where, _measure)
        contents.append(found)
        report.show(found, console)
    for note in report.NOTES:
        console.print(note, style="dim", highlight=False)
    _draw(contents, folder)
    return 0


def _beside(
    chosen: Sequence[Workload], config: Config, folder: Path, console: Console
) -> None:
    """Both builds of the library on each model."""
    root, commit = here(), config.baseline
    assert commit is not None
    names = {NEW: commits.current(root), BASELINE: commit}
    with both(root, commit) as builds:
        measure = partial(paired.of_model, builds)
        for i, workload in enumerate(chosen, 1):
            where = f"[{i}/{len(chosen)}] {workload.title}"
            found = _content(
                BASELINES, workload, config, folder, console, where, measure, names
            )
            table.show(found, console)
    for note in table.NOTES:
        console.print(note, style="dim", highlight=False)
    print("written:", ", ".join(str(record.path(folder, w.name)) for w in chosen))


def _draw(contents: Sequence[Benchmark], folder: Path) -> None:
    pictures = {
        folder / "ratio_against_k.png": plots.ratio_against_k,
        folder / "memory.png": plots.memory_against_batch,
    }
    written = [record.path(folder, content["workload"]["name"]) for content in contents]
    written += [path for path, draw in pictures.items() if draw(contents, path)]
    print("written:", ", ".join(str(path) for path in written))


def _checked(config: Config) -> list[Workload]:
    """The models in the tables' order, with the options put in."""
    available = workloads(jax.default_backend())
    for option, what, valid in (
        ("models", "model", tuple(available)),
        ("methods", "method", tuple(CONTENDERS)),
        ("keeps", "keep", KEEPS),
    ):
        names = _keeps(config) if option == "keeps" else getattr(config, option)
        if not names:
            raise cli.UsageError(f"--{option} needs at least one of {', '.join(valid)}")
        for name in names:
            if option != "keeps" or not _is_positive_integer(name):
                cli.one_of(what, name, valid)
    cli.one_of("dtype", config.dtype, DTYPES)
    cli.at_least("rounds", config.rounds, 1)
    cli.at_least("compiles", config.compiles, 1)
    given = {}
    if config.batch_size is not None:
        cli.at_least("batch-size", config.batch_size, 2)
        given = {"batch_size": config.batch_size}
    return [replace(w, **given) for name, w in available.items() if name in config.models]


def _is_positive_integer(text: str) -> bool:
    return text.isascii() and text.isdecimal() and int(text) >= 1


def _keeps(config: Config) -> tuple[str, ...]:
    if config.keeps is not None:
        return config.keeps
    return KEEPS if config.baseline is None else (DEFAULT_KEEP,)


def _command(config: Config) -> str:
    return cli.command(PROG, config, without=("restart",))


def _content(
    kind: Format[Content],
    workload: Workload,
    config: Config,
    folder: Path,
    console: Console,
    where: str,
    measure: Callable[[Workload, Config, Say], Mapping[str, Any]],
    builds: Mapping[str, str] | None = None,
) -> Content:
    """What goes into the model's JSON: measured now, or by an earlier run like this."""
    path, command = record.path(folder, workload.name), _command(config)
    config = replace(config, keeps=_keeps(config))
    about = record.about(workload, config)
    if builds is not None:
        about |= {"builds": dict(builds), "compiles": config.compiles}
    # What it is of depends on the kind.
    earlier: Any = None if config.restart else kind.kept(path)
    if earlier is not None and about.items() <= earlier.items():
        console.print(f"{where}: measured on {earlier['date']}", highlight=False)
        return earlier
    started = time.monotonic()
    with console.status(where) as status:
        measured = measure(workload, config, lambda text: status.update(f"{where}: {text}"))
    seconds = round(time.monotonic() - started, 1)
    console.print(f"{where}: measured in {seconds:.0f} s", highlight=False)
    made: dict[str, Any] = {
        "command": command,
        "date": datetime.date.today().isoformat(),
    }
    return kind.write(path, made | about | {"seconds": seconds, **measured})


def _measure(workload: Workload, config: Config, say: Say) -> Mapping[str, Any]:
    task = make_task(workload.build(config.dtype))
    groups = plan(
        workload,
        config.methods,
        config.keeps or KEEPS,
        couples_examples=task.has_aux,
        sweep=config.sweep,
    )
    model = Model(workload, task)
    found = measure(model, groups, config.rounds, say)
    return {"parameters": model.parameters, "groups": found}


if __name__ == "__main__":
    sys.exit(cli.run(main, None))
