"""Finds the largest batch that each method can take a training step on.

For SGD, SAM, K-SAM and K-Momentum-SAM the batch is doubled until a step runs out of
memory. Each try is a process of its own, which on a CPU may take --limit-mib of memory
for its steps, besides weights, batch and compiled program; on an accelerator the limit is
the device's. A process that dies of it counts as out of memory, too.

Writes OUT/benchmark/largest_batch.json.

Example: python -m experiments.largest_batch --limit-mib 1024
"""

import datetime
import multiprocessing
import resource
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import jax
from rich.console import Console
from tyro.conf import arg

from experiments.configs.benchmark import CPU, workloads
from experiments.costs.benchmark.contents import LARGEST_BATCH
from experiments.costs.benchmark.largest import TRIED, case_of, two_steps
from experiments.costs.benchmark.programs import Model, or_too_large
from experiments.costs.benchmark.task import make_task
from experiments.shell import cli, files, progress

PROG = "python -m experiments.largest_batch"


@dataclass(frozen=True)
class Config:
    """Options."""

    model: Annotated[str, arg(metavar="NAME", help=f"One of {', '.join(CPU)}.")] = "vit"
    limit_mib: Annotated[
        int, arg(help="Memory for a step, in MiB; not used on an accelerator.")
    ] = 1024
    smallest: Annotated[int, arg(help="Batch size to begin with.")] = 64
    out: Annotated[
        Path, arg(metavar="DIR", help="The result goes into the folder benchmark in it.")
    ] = Path("results")


def main(argv: Sequence[str] | None = None) -> int:
    """Tries, and returns the exit status."""
    config = cli.parse(Config, argv, PROG, __doc__ or "")
    cli.one_of("model", config.model, CPU)
    cli.at_least("limit-mib", config.limit_mib, 1)
    cli.at_least("smallest", config.smallest, 4)
    folder = cli.writable(config.out / "benchmark")
    console = progress.console()
    largest = {label: _largest(config, label, console) for label in TRIED}
    # Not before: a process with the accelerator's memory would leave none to the others.
    backend = jax.default_backend()
    content = {
        "command": cli.command(PROG, config, without=("out",)),
        "date": datetime.date.today().isoformat(),
        "model": workloads(backend)[config.model].title,
        "limit_mib": config.limit_mib if backend == "cpu" else None,
        "largest_batch": largest,
        "machine": files.machine(),
        "versions": files.versions(),
    }
    LARGEST_BATCH.write(folder / "largest_batch.json", content)
    print(f"written: {folder / 'largest_batch.json'}")
    return 0


def _largest(config: Config, label: str, console: Console) -> int:
    """The largest batch that worked; 0 if none did."""
    largest, batch = 0, config.smallest
    while _works(config, label, batch):
        console.print(f"{label}: batch {batch} works", highlight=False)
        largest, batch = batch, 2 * batch
    console.print(f"{label}: batch {batch} runs out of memory", highlight=False)
    return largest


def _works(config: Config, label: str, batch: int) -> bool:
    # A new process: the limit of memory can't be raised again, and JAX doesn't fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(step_works, config, label, batch).result()
        except BrokenProcessPool:
            return False


def step_works(config: Config, label: str, batch: int) -> bool:
    """Takes one step in this process, under the limit; False if memory runs out."""
    workload = replace(workloads(jax.default_backend())[config.model], batch_size=batch)
    model = Model(workload, make_task(workload.build("float32")))
    program = model.compile(case_of(label, model, batch))
    burst = or_too_large(lambda: model.ready(program))
    if burst is None:
        return False
    if jax.default_backend() == "cpu":
        _limit(config.limit_mib)
    return or_too_large(lambda: two_steps(burst)) is not None


def _limit(mib: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + mib * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


if __name__ == "__main__":
    sys.exit(cli.run(main, None))
