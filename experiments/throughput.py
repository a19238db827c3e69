"""Measures whether batches come faster than training takes them.

For each config: examples per second of the input pipeline alone (what `experiments.train`
iterates over, from memory, put onto the devices), beside those of the training step alone
(augmentation and optimizer included). The two are measured in turns, in one run; "times" is
the median of their ratio over the rounds.

Writes OUT/throughput.json. Configs whose dataset isn't prepared are left out, with a line.

Example: python -m experiments.throughput --data-dir DIR
"""

import datetime
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from rich.console import Console
from tyro.conf import arg

from experiments.configs import rows
from experiments.configs.experiment import Row
from experiments.configs.options import DataDir
from experiments.costs import timing
from experiments.processes import sharded
from experiments.results import speeds, terminal
from experiments.results.speeds import Speed
from experiments.shell import cli, files, progress
from experiments.training.harness import job
from experiments.training.harness.job import Job

PROG = "python -m experiments.throughput"
# Of each dataset the method whose step takes least, and SGD.
CONFIGS = (
    "digits_sgd",
    "digits_k_momentum_remembered",
    "mnist_1000_sgd",
    "mnist_1000_k_momentum_remembered",
    "fashion_mnist_cnn_sgd",
    "cifar10_resnet8_sgd",
    "cifar10_resnet8_k_momentum_sam",
    "cifar100_resnet8_sgd",
)
BURST_SECONDS = 0.2


@dataclass(frozen=True)
class Config:
    """Options of the measurement."""

    configs: Annotated[
        tuple[str, ...], arg(metavar="NAME ...", help="Of experiments.train --list.")
    ] = CONFIGS
    data_dir: DataDir = None
    rounds: Annotated[int, arg(help="How often each has its turn.")] = 15
    out: Annotated[Path, arg(metavar="DIR", help="Folder for the results.")] = Path(
        "results/throughput"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, and returns the exit status."""
    config = cli.parse(Config, argv, PROG, __doc__ or "")
    cli.at_least("rounds", config.rounds, 1)
    named = [rows.row(name) for name in config.configs]
    cli.writable(config.out)
    console = progress.console()
    found = {}
    for row in named:
        ready = _ready(row, config, console)
        if ready is not None:
            found[row.name] = measure(ready, config.rounds)
    if not found:
        raise cli.UsageError("--configs has nothing to measure; name some of --list's")
    content = speeds.SPEEDS.write(config.out / "throughput.json", _content(config, found))
    console.print(terminal.table(speeds.HEADERS, speeds.table(content)))
    console.print(f"written: {config.out / 'throughput.json'}")
    return 0


def _ready(row: Row, config: Config, console: Console) -> Job | None:
    """The row's job; None if it is only one of the defaults, and its data aren't there."""
    try:
        return job.prepare(row.name, row.experiment, config.data_dir, console)
    except cli.UsageError as error:
        if config.configs != CONFIGS:
            raise
        console.print(f"left out {row.name}: {error}", soft_wrap=True)
        return None


def measure(ready: Job, rounds: int) -> Speed:
    """Examples per second of the pipeline and of the step, and the ratio's quartiles."""
    size = ready.experiment.batch_size
    bursts = {"pipeline": _pipeline(ready), "step": _step(ready)}
    once = {name: burst(3) for name, burst in bursts.items()}
    repeats = {name: max(2, round(BURST_SECONDS / t)) for name, t in once.items()}
    times = timing.interleaved(bursts, repeats, rounds)
    median, low, high = timing.ratio(times["step"], times["pipeline"])
    pipeline, step = (
        size / timing.median_and_quartiles(times[name])[0] for name in ("pipeline", "step")
    )
    return {
        "pipeline": pipeline,
        "step": step,
        "times": {"median": median, "lower_quartile": low, "upper_quartile": high},
        "rounds": rounds,
        "batch_size": size,
    }


def _pipeline(ready: Job) -> Callable[[int], float]:
    batches, size = ready.batches(), ready.experiment.batch_size

    def burst(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            jax.block_until_ready(sharded.global_batch(ready.mesh, size, next(batches)))
        return (time.perf_counter() - start) / count

    return burst


def _step(ready: Job) -> Callable[[int], float]:
    size = ready.experiment.batch_size
    rows = sharded.global_batch(ready.mesh, size, next(ready.batches()))
    step, seed = ready.programs.step, jnp.int32(0)
    burst = timing.repeated(lambda state: step(state, rows, seed)[0], ready.start())
    burst(1)
    return burst


def _content(config: Config, found: Mapping[str, Speed]) -> dict[str, Any]:
    return {
        "command": cli.command(PROG, config),
        "date": datetime.date.today().isoformat(),
        "configs": found,
        "machine": files.machine(),
        "versions": files.versions(),
    }


if __name__ == "__main__":
    sys.exit(cli.run(main, None))
