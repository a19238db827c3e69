"""How the time of a step grows: K-SAM and K-Momentum-SAM beside SGD, docs/growth.md.

Trains an MLP, a GroupNorm CNN and a ViT for a few steps with each method in turn: models of
more and more parameters on one batch, the smallest on larger and larger batches, and on one
batch spread over more and more virtual devices (which share the machine's cores), each
number of them in a process of its own. Only costs are measured: data are random.

Writes OUT/growth/growth.json after each case, and at the end the picture growth.png. The
same command goes on behind what is there, also when it was killed, and ends with status 0
when there is nothing left to do, with 1 before. CPU only.

Example: python -m experiments.growth --models mlp --parameters 1 10 --minutes 3
"""

import datetime
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
from rich.console import Console
from tyro.conf import arg

from experiments.configs.growth import FAMILIES
from experiments.costs.benchmark import record
from experiments.costs.growth import measuring, plots
from experiments.costs.growth.contents import GROWTH, Growth
from experiments.costs.growth.plan import Case, plan
from experiments.pages import growth as page
from experiments.processes import budget
from experiments.results import terminal
from experiments.shell import cli, progress

PROG = "python -m experiments.growth"
# The least for a process, which has to begin.
LEAST_SECONDS = 5.0


@dataclass(frozen=True)
class Config:
    """Options."""

    models: Annotated[
        tuple[str, ...], arg(metavar="NAME ...", help=f"Any of {', '.join(FAMILIES)}.")
    ] = tuple(FAMILIES)
    parameters: Annotated[
        tuple[float, ...], arg(metavar="MILLIONS ...", help="Of the models, about.")
    ] = (1.0, 3.0, 10.0, 30.0, 100.0)
    batches: Annotated[
        tuple[int, ...], arg(metavar="INT ...", help="Of the smallest model.")
    ] = (32, 128, 512, 2048, 4096)
    devices: Annotated[
        tuple[int, ...], arg(metavar="INT ...", help="Of the smallest model, virtual.")
    ] = (1, 2, 4, 8)
    spread_batch: Annotated[int, arg(help="Examples on all the devices together.")] = 128
    rounds: Annotated[
        int, arg(help="Of timing; fewer, but at least 3, where steps are slow.")
    ] = 15
    timing_seconds: Annotated[
        float, arg(help="How long the rounds of a case may take.")
    ] = 5.0
    minutes: Annotated[float, arg(help="After which nothing is running any more.")] = 60.0
    out: Annotated[
        Path, arg(metavar="DIR", help="Results go into the folder growth in it.")
    ] = Path("results")


def main(argv: Sequence[str] | None = None) -> int:
    """Measures what there is time for, and returns the exit status."""
    config = cli.parse(Config, argv, PROG, __doc__ or "")
    _check(config)
    jax.config.update("jax_platforms", "cpu")
    folder = cli.writable(config.out / "growth")
    console, clock = progress.console(), budget.Budget(60 * config.minutes)
    cases = plan(
        config.models,
        config.parameters,
        config.batches,
        config.devices,
        config.spread_batch,
    )
    path = folder / "growth.json"
    if budget.within(clock.seconds, begin, config, cases, path) != budget.DONE:
        raise cli.RunError(f"{path} couldn't be begun")
    _measure(config, cases, path, clock)
    content = _ended(cases, path)
    _show(content, folder, console)
    left = len(cases) - len(content["cases"])
    if left:
        console.print(f"not done yet: {left} of {len(cases)}; the same command goes on")
    return 1 if left else 0


def _check(config: Config) -> None:
    for option in ("models", "parameters", "batches", "devices"):
        if not getattr(config, option):
            raise cli.UsageError(f"--{option} needs at least one value")
    for name in config.models:
        cli.one_of("model", name, FAMILIES)
    if not min(config.parameters) > 0:
        raise cli.UsageError(f"--parameters must be above 0; got {min(config.parameters)}")
    for option, least in (("batches", 4), ("devices", 1)):
        cli.at_least(option, min(getattr(config, option)), least)
    cli.at_least("rounds", config.rounds, 1)
    for option in ("minutes", "timing_seconds"):
        if not getattr(config, option) > 0:
            name = option.replace("_", "-")
            raise cli.UsageError(f"--{name} must be above 0; got {getattr(config, option)}")
    for number in config.devices:
        if config.spread_batch % (4 * number):
            raise cli.UsageError(
                f"--spread-batch must be a multiple of four examples on each device; got "
                f"{config.spread_batch} on {number}"
            )


def begin(config: Config, cases: Sequence[Case], path: Path) -> int:
    """Leaves in the file what an earlier call like this measured; returns 0.

    In a process of its own, since who asks JAX for the machine has chosen its devices.
    """
    jax.config.update("jax_platforms", "cpu")
    about: dict[str, Any] = record.here() | {"settings": _settings(config)}
    earlier: Any = GROWTH.kept(path)
    if earlier is None or not about.items() <= earlier.items():
        earlier = {"cases": [], "seconds": 0.0}
    found = [each for each in earlier["cases"] if measuring.key(each) in cases]
    made = {
        "command": cli.command(PROG, config, without=("out", "minutes")),
        "date": datetime.date.today().isoformat(),
        "complete": False,
        "seconds": earlier["seconds"],
    }
    GROWTH.write(path, about | made | {"cases": found})
    return 0


def _settings(config: Config) -> dict[str, Any]:
    names = ("spread_batch", "rounds", "timing_seconds")
    batches = {f"{name}_batch": f.like.batch_size for name, f in FAMILIES.items()}
    return {name: getattr(config, name) for name in names} | batches


def _measure(
    config: Config, cases: Sequence[Case], path: Path, clock: budget.Budget
) -> None:
    for devices in dict.fromkeys(case.devices for case in cases):
        seconds = clock.until(1.0) - budget.GRACE
        if seconds < LEAST_SECONDS:
            return
        args = devices, cases, config.rounds, config.timing_seconds, path
        if budget.within(seconds, measuring.measure_all, *args) == budget.FAILED:
            raise cli.RunError(f"a step on {devices} devices failed; what was done is kept")


def _ended(cases: Sequence[Case], path: Path) -> Growth:
    """The file with its cases in the plan's order."""
    content = GROWTH.read(path)
    found = sorted(content["cases"], key=lambda each: cases.index(measuring.key(each)))
    complete = len(found) == len(cases)
    return GROWTH.write(path, {**content, "cases": found, "complete": complete})


def _show(content: Growth, folder: Path, console: Console) -> None:
    for title, headers, rows in page.tables(content):
        console.print(terminal.table(headers, rows, title))
    written = [folder / "growth.json"]
    if content["cases"]:
        plots.draw(content, folder / "growth.png")
        written.append(folder / "growth.png")
    print("written:", ", ".join(map(str, written)))


if __name__ == "__main__":
    sys.exit(cli.run(main, None))
