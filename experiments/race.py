"""Time to the plain optimizer's accuracy: who is there first, side by side.

Every method trains at the settings of a table's baseline (SGD, or AdamW for texts); only
the radius is its own. All run in turns, a twentieth of the training at a time, so that they
share the machine's good and bad minutes. The table says behind which share of the
baseline's training time a method is for the first time as good as the baseline at its end
(median over the seeds), and where it ends. Judged on held-out training examples: the test
examples aren't looked at.

Writes OUT/TABLE/race.json and race.png. What is done isn't repeated: the same command again
goes on behind the last seed that was finished, and a finished race with more --seeds too.

With METHOD:half among --methods that method has half of the epochs, as `half` has them of
the baseline: a better method can be as good in fewer.

Example: python -m experiments.race --table mnist_1000 --seeds 3 --data-dir DIR
"""

import datetime
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from tyro.conf import arg

from experiments.configs import tables
from experiments.configs.experiment import Experiment, Row
from experiments.configs.options import DataDir
from experiments.configs.rows import ROWS
from experiments.data import catalogue
from experiments.racing import entries, page
from experiments.racing.contents import (
    RACE,
    STOPPED,
    CourseHere,
    LapContent,
    Seed,
    StepsContent,
)
from experiments.racing.laps import Lap, race
from experiments.racing.operations import mean_operations
from experiments.results import output, terminal
from experiments.shell import cli, files, progress
from experiments.training.harness import folder, job
from experiments.training.harness.grid import Jobs

PROG = "python -m experiments.race"
RESULT = "race.json"


@dataclass(frozen=True)
class Config:
    """Options of the race."""

    table: Annotated[
        str, arg(metavar="NAME", help="As in `experiments.reproduce --list`.")
    ] = "digits"
    methods: Annotated[
        tuple[str, ...],
        arg(
            metavar="NAME ...",
            help="Besides the baseline: methods, and "
            + ", ".join(
                f"{name} (the baseline on {c.label})" for name, c in entries.CUTS.items()
            )
            + "; METHOD:half and so on is a method likewise.",
        ),
    ] = entries.DEFAULT
    seeds: Annotated[int, arg(help="Races, with seeds 0, 1, ...")] = 3
    laps: Annotated[int, arg(help="How many times each is looked at.")] = 20
    rho: Annotated[
        float | None,
        arg(help="Radius of all methods that have one; None: each method's default."),
    ] = None
    epochs: Annotated[int | None, arg(help="None: the table's.")] = None
    train_examples: Annotated[int | None, arg(help="None: the table's.")] = None
    validation_examples: Annotated[
        int, arg(help="Held out of the training examples, to judge by.")
    ] = 1000
    norm: Annotated[
        str | None, arg(help="batch or group, as in experiments.train; None: the table's.")
    ] = None
    data_dir: DataDir = None
    out: Annotated[
        Path, arg(metavar="DIR", help="Results go into a folder in it, named as the table.")
    ] = Path("results/race")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs or resumes the race, and returns the exit status."""
    config = cli.parse(Config, argv, PROG, __doc__ or "")
    base, experiments = _checked(config)
    where = cli.writable(config.out / config.table)
    console = progress.console()
    jobs = Jobs(config.data_dir, console)
    seeds = _raced(config, base, experiments, where, console, jobs)
    content = _content(config, base, experiments, seeds) | _operations(
        base, experiments, seeds, jobs
    )
    content = RACE.write(where / RESULT, content)
    console.print(
        terminal.table(page.headers(content), page.rows(content), page.title(content))
    )
    console.print(page.note(content), style="dim", highlight=False)
    page.draw(content, where / page.PICTURE)
    (where / output.PARTIAL).unlink(missing_ok=True)
    print(f"written: {where / RESULT}, {where / page.PICTURE}")
    return 0


def _checked(config: Config) -> tuple[Row, dict[str, Experiment]]:
    """The baseline's row, and what takes part, by name, the baseline first."""
    for name in ("seeds", "laps", "validation_examples"):
        cli.at_least(name.replace("_", "-"), getattr(config, name), 1)
    base = baseline(config.table)
    changes: dict[str, Any] = {
        name: getattr(config, name)
        for name in ("epochs", "train_examples", "validation_examples", "norm")
        if getattr(config, name) is not None
    }
    start = replace(base.experiment, **changes)
    names = dict.fromkeys((start.method, *config.methods))
    found = {name: entries.entry(name, start, config.rho) for name in names}
    for experiment in found.values():
        job.check(experiment)
        cli.at_least("epochs", experiment.epochs, 1)
    return base, found


def baseline(table: str) -> Row:
    """The row of a table whose method is its optimizer's own.

    Raises:
      UsageError: if there is no such table, or it has no such row.
    """
    rows = [ROWS[name] for name in tables.table(table).rows]
    plain = [row for row in rows if row.experiment.method == row.experiment.optimizer]
    if not plain:
        raise cli.UsageError(f"--table {table} has no row of the optimizer alone")
    return plain[0]


def _raced(
    config: Config,
    base: Row,
    experiments: Mapping[str, Experiment],
    where: Path,
    console: Console,
    jobs: Jobs,
) -> list[Seed]:
    """Of each seed, each method's laps; what an earlier run has done isn't repeated."""
    about = _about(config, experiments)
    seeds = _kept(where, about)[: config.seeds]
    if seeds:
        console.print(f"{len(seeds)} of {config.seeds} seeds were raced before")
    missing = range(len(seeds), config.seeds)
    with progress.Display(console, len(missing)) as display:
        for seed in missing:
            mine = {
                name: jobs.of(base.name, replace(experiment, seed=seed))
                for name, experiment in experiments.items()
            }
            seeds.append(_one(seed, mine, config.laps, display))
            STOPPED.write(where / output.PARTIAL, {"about": about, "seeds": seeds})
    return seeds


def _one(
    seed: int, jobs: Mapping[str, job.Job], laps: int, display: progress.Display
) -> Seed:
    began = time.monotonic()
    display.begin(f"seed {seed}", laps * len(jobs))

    def done(name: str, lap: Lap) -> None:
        del name
        display.advance(1, lap.score)

    found = race(jobs, laps, done)
    display.end(f"{len(jobs)} methods, {time.monotonic() - began:.0f} s")
    return {name: [_plain(lap) for lap in laps] for name, laps in found.items()}


def _plain(lap: Lap) -> LapContent:
    kinds = [StepsContent(**kind._asdict()) for kind in lap.kinds]
    return LapContent(**{**lap._asdict(), "kinds": kinds})


def _operations(
    base: Row, experiments: Mapping[str, Experiment], seeds: list[Seed], jobs: Jobs
) -> dict[str, Any]:
    """Of a mean step of each method; nothing where an earlier race didn't count steps."""
    races = page.races(experiments, seeds)
    if not all(lap.kinds for runs in races.values() for laps in runs for lap in laps):
        print("operations weren't counted: earlier seeds don't say what their steps were")
        return {}
    mine = {name: jobs.of(base.name, one) for name, one in experiments.items()}
    return {"operations": mean_operations(mine, races)}


def _about(config: Config, experiments: Mapping[str, Experiment]) -> CourseHere:
    """What makes laps comparable: settings and machine."""
    settings = {name: folder.plain(name, what) for name, what in experiments.items()}
    about = {"settings": settings, "laps": config.laps, "machine": files.machine()}
    (dataset,) = {what.dataset for what in experiments.values()}
    pixels = catalogue.named(dataset).pixels
    return files.plain(about | ({"pixels": pixels} if pixels else {}))


def _kept(where: Path, about: CourseHere) -> list[Seed]:
    """The seeds that a stopped or finished run with the same settings has left."""
    stopped, done = STOPPED.kept(where / output.PARTIAL), RACE.kept(where / RESULT)
    if stopped and stopped["about"] == about:
        return stopped["seeds"]
    return done["seeds"] if done and about.items() <= done.items() else []


def _content(
    config: Config,
    base: Row,
    experiments: Mapping[str, Experiment],
    seeds: list[Seed],
) -> dict[str, Any]:
    return {
        "table": config.table,
        "title": tables.table(config.table).title,
        "baseline": base.experiment.method,
        "command": cli.command(PROG, config, without=("out",)),
        "date": datetime.date.today().isoformat(),
        "origin": base.origin,
        **_about(config, experiments),
        "versions": files.versions(),
        "seeds": seeds,
    }


if __name__ == "__main__":
    sys.exit(cli.run(main, None))
