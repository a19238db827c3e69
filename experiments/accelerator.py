"""All that is wanted of an accelerator, within some minutes, and further in the next call.

In this order, until the time is over: what a step of every method costs, beside SGD and
optax.contrib.sam, for ResNet-18, ViT-S/16, BERT-base and an MLP in bfloat16, the main
methods first; the largest batch of each; CIFAR-10 with ResNet-18, SGD beside K-SAM, for as
many epochs as fit. From the costs it computes which `keep` should be the default.

Each stage is a process of its own, which is told to stop when its time is over. Everything
that is done is in OUT/accelerator, in files of their own: the same command goes on, also
when it was killed, and ends with status 0 when there is nothing left to do, with 1 before.
All of it together is in OUT/accelerator/accelerator.json.

With --toy it does the same with the smallest models on digits, to try it on any machine.

Example: python -m experiments.accelerator --data-dir DIR --minutes 8
"""

import datetime
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
from rich.console import Console
from tyro.conf import arg

from experiments.configs.accelerator import FULL, TOY, Sizes
from experiments.configs.options import DataDir
from experiments.costs.accelerator import keep, memory, pieces
from experiments.costs.accelerator.contents import ACCELERATOR, DEVICE, LARGEST
from experiments.data import catalogue
from experiments.pages import accelerator as page
from experiments.processes import budget
from experiments.results import terminal
from experiments.shell import cli, files, progress
from experiments.training import fitting

PROG = "python -m experiments.accelerator"
STAGES = ("benchmark", "largest", "training")
# Until which share of the time each may go on; then, with all that is left, once more.
TURNS = (("benchmark", 0.5), ("largest", 0.65), *((stage, 1.0) for stage in STAGES[::-1]))
# To be told of the device, which is a process's work, too; and the least for a stage.
LOOK_SECONDS, LEAST_SECONDS = 60.0, 5.0
MACHINE = "machine.json"


@dataclass(frozen=True)
class Config:
    """Options."""

    data_dir: DataDir = None
    minutes: Annotated[float, arg(help="After which nothing is running any more.")] = 8.0
    stages: Annotated[
        tuple[str, ...], arg(metavar="NAME ...", help=f"Any of {', '.join(STAGES)}.")
    ] = STAGES
    epochs: Annotated[
        int | None,
        arg(
            metavar="INT",
            help="To train for; decided when training begins, and kept.",
            help_behavior_hint="(default: as many as fit)",
        ),
    ] = None
    limit_mib: Annotated[
        int, arg(help="Memory for the largest batch, in MiB; not used on an accelerator.")
    ] = 64
    toy: Annotated[bool, arg(help="The smallest models, on digits: to try it out.")] = False
    out: Annotated[
        Path, arg(metavar="DIR", help="Results go into the folder accelerator in it.")
    ] = Path("results")


def main(argv: Sequence[str] | None = None) -> int:
    """Does what there is time for, and returns the exit status."""
    config = cli.parse(Config, argv, PROG, __doc__ or "")
    sizes = TOY if config.toy else FULL
    _check(config, sizes)
    folder = cli.writable(config.out / "accelerator")
    clock = budget.Budget(60 * config.minutes)
    console = progress.console()
    if budget.within(LOOK_SECONDS, look, folder, config.toy) != budget.DONE:
        raise cli.UsageError(
            "an accelerator must be what JAX computes on; it found none: install JAX for "
            "it, or try the program with --toy"
        )
    ended = _run_stages(config, sizes, folder, clock, console)
    _report(config, sizes, folder, ended, console)
    left = [stage for stage in config.stages if ended.get(stage) != budget.DONE]
    if left:
        console.print(f"not done yet: {', '.join(left)}; the same command goes on")
    return 1 if left else 0


def _check(config: Config, sizes: Sizes) -> None:
    """Fails before minutes of a machine that somebody pays for."""
    if not config.minutes > 0:
        raise cli.UsageError(f"--minutes must be above 0; got {config.minutes:g}")
    if not config.stages:
        raise cli.UsageError(f"--stages needs at least one of {', '.join(STAGES)}")
    for name in config.stages:
        cli.one_of("stage", name, STAGES)
    cli.at_least("limit-mib", config.limit_mib, 1)
    if config.epochs is not None:
        cli.at_least("epochs", config.epochs, 1)
    if "training" in config.stages:
        for row in sizes.rows.values():
            catalogue.load(row.experiment.dataset, config.data_dir)


def look(folder: Path, toy: bool) -> int:
    """Writes what machine this is; 2 if it isn't one to measure on."""
    about = {"machine": files.machine(), "versions": files.versions()}
    DEVICE.write(folder / MACHINE, about)
    return 2 if jax.default_backend() == "cpu" and not toy else 0


def _run_stages(
    config: Config, sizes: Sizes, folder: Path, clock: budget.Budget, console: Console
) -> Mapping[str, str]:
    """What became of each stage; one that isn't there had no time."""
    ended: dict[str, str] = {}
    for stage, share in TURNS:
        seconds = clock.until(share) - budget.GRACE
        is_over = ended.get(stage) in (budget.DONE, budget.FAILED)
        if stage not in config.stages or is_over or seconds < LEAST_SECONDS:
            continue
        console.print(f"{stage}, for up to {seconds:.0f} s", highlight=False)
        work, args = _work(stage, config, sizes, folder, seconds)
        ended[stage] = budget.within(seconds, work, *args)
        console.print(f"{stage}: {ended[stage]}", highlight=False)
    return ended


def _work(
    stage: str, config: Config, sizes: Sizes, folder: Path, seconds: float
) -> tuple[Callable[..., int], tuple[Any, ...]]:
    """A function that a new process can import, and its arguments."""
    if stage == "benchmark":
        return pieces.measure_all, (sizes, folder / stage)
    if stage == "largest":
        return memory.find_all, (sizes, config.limit_mib, folder / "largest.json")
    where = cli.writable(folder / stage)
    return fitting.train_all, (sizes, config.data_dir, where, seconds, config.epochs)


def _report(
    config: Config,
    sizes: Sizes,
    folder: Path,
    ended: Mapping[str, str],
    console: Console,
) -> None:
    """Writes and shows what there is, from this call and from earlier ones."""
    contents = pieces.joined(sizes, folder / "benchmark")
    content = {
        "complete": all(ended.get(stage) == budget.DONE for stage in STAGES),
        "command": cli.command(PROG, config, without=("out", "minutes")),
        "date": datetime.date.today().isoformat(),
        **DEVICE.read(folder / MACHINE),
        "benchmark": contents,
        "keep": keep.decide(contents),
        "largest": LARGEST.kept(folder / "largest.json"),
        "training": fitting.found(sizes, folder / "training"),
    }
    written = ACCELERATOR.write(folder / "accelerator.json", content)
    for title, headers, rows in page.tables(written):
        console.print(terminal.table(headers, rows, title))
    console.print(page.recommendation(written["keep"]), highlight=False)
    print(f"written: {folder / 'accelerator.json'}")


if __name__ == "__main__":
    sys.exit(cli.run(main, None))
