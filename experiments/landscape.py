"""Draws the training loss around what runs of `experiments.train` have found.

Loads the last checkpoint of each --run and writes into OUT: slice.png, the loss along
random directions; surface.png, over the plane of two; plane.png, over the plane through
the first three runs; sharpness.png, over training, if the runs measured it
(--sharpness-every); spectrum.png, the Hessian's; alignment.png, the gradient of a batch's
hardest examples against the whole batch's; and landscape.json with all numbers. Runs must
be of one model on the same data. Their folders stay as they are.

Losses are those of training examples as in use: without augmentation, dropout and label
smoothing, BatchNorm with its running statistics. In slices and surfaces these stay the
solution's own; in the plane through three solutions they are interpolated like weights.

Example: python -m experiments.landscape --run results/train/digits_sgd-seed-0 \
    --run results/train/digits_k_sam-seed-0
"""

import dataclasses
import datetime
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
from rich.console import Console
from tyro.conf import UseAppendAction, arg

from experiments.configs.options import DataDir
from experiments.flatness.landscapes import measured, pictures, solutions
from experiments.flatness.landscapes.contents import LANDSCAPE
from experiments.flatness.landscapes.measured import Look
from experiments.flatness.landscapes.pictures import PICTURES
from experiments.flatness.landscapes.solutions import Solution
from experiments.models.zoo import title as title_of
from experiments.shell import cli, files, progress
from experiments.shell.progress import Display
from experiments.training.harness import folder

PROG = "python -m experiments.landscape"
NUMBERS = "landscape.json"
# Of each run; in what order they are measured.
EACH = {
    "slice": measured.slices,
    "surface": measured.surface,
    "spectrum": measured.spectrum,
    "alignment": measured.alignment,
}
# Through how many solutions a plane is.
THREE = 3
# What a bar counts: hundredths of what is being measured.
WHOLE = 100


@dataclass(frozen=True)
class Config:
    """Options of the pictures."""

    run: Annotated[
        UseAppendAction[tuple[Path, ...]],
        arg(metavar="DIR", help="Folder of a run; may be given several times."),
    ] = ()
    data_dir: DataDir = None
    out: Annotated[Path, arg(metavar="DIR", help="Folder for all that is written.")] = Path(
        "results/landscape"
    )
    parts: Annotated[
        tuple[str, ...],
        arg(
            metavar="NAME ...",
            help=f"Which pictures, any of {', '.join(PICTURES)}.",
            help_behavior_hint="(default: all that these runs have)",
        ),
    ] = ()
    points: Annotated[int, arg(help="Along each axis of slices, surfaces and planes.")] = 41
    radius: Annotated[
        float,
        arg(help="Of slices and surfaces: 1 is as far as each filter's weights are long."),
    ] = 1.0
    batch_size: Annotated[
        int | None,
        arg(
            metavar="INT",
            help="Examples at a time; alignment is that of batches of this size.",
            help_behavior_hint="(default: the first run's)",
        ),
    ] = None
    examples: Annotated[
        int | None,
        arg(
            metavar="INT",
            help="Look at the first so many training examples only.",
            help_behavior_hint="(default: all)",
        ),
    ] = None


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and draws, and returns the exit status."""
    config = cli.parse(Config, argv, PROG, __doc__ or "")
    _check(config)
    console = progress.console()
    found = solutions.load(config.run, config.data_dir, console)
    parts = _parts(config, found)
    where = cli.writable(config.out)
    content = _measured(config, found, parts, console)
    content = LANDSCAPE.write(where / NUMBERS, content)
    written = [where / NUMBERS, *pictures.draw(content, where)]
    console.print(f"written: {', '.join(map(str, written))}", soft_wrap=True)
    return 0


def _check(config: Config) -> None:
    if not config.run:
        raise cli.UsageError("--run DIR is missing: give the --out of experiments.train")
    for part in config.parts:
        cli.one_of("part", part, PICTURES)
    cli.at_least("points", config.points, 3)
    if not 0 < config.radius < float("inf"):
        raise cli.UsageError(f"--radius must be above 0 and finite; got {config.radius:g}")
    for name in ("batch_size", "examples"):
        if (value := getattr(config, name)) is not None:
            cli.at_least(name.replace("_", "-"), value, 1)


def _parts(config: Config, found: Sequence[Solution]) -> list[str]:
    """What is to be drawn, in order: what was asked for, or what is possible."""
    impossible = {}
    if len(found) < THREE:
        impossible["plane"] = f"needs three runs; got {len(found)}"
    if not any(solution.sharpness() for solution in found):
        impossible["sharpness"] = (
            "needs runs that measured it in training: give experiments.train "
            "--sharpness-every 1"
        )
    for part in config.parts:
        if part in impossible:
            raise cli.UsageError(f"--parts {part} {impossible[part]}")
    wanted = config.parts or tuple(PICTURES)
    return [part for part in PICTURES if part in wanted and part not in impossible]


def _measured(
    config: Config, found: Sequence[Solution], parts: Sequence[str], console: Console
) -> dict[str, Any]:
    """What goes into landscape.json, with NumPy's arrays."""
    batches = found[0].batches(config.examples, config.batch_size)
    look = Look(config.points, config.radius, batches)
    each = [part for part in parts if part in EACH]
    runs = [_about(solution, measured.loss(solution, batches)) for solution in found]
    content = {**_settings(config, found), "examples": batches.dataset.size, "runs": runs}
    with Display(console, len(found) * len(each) + ("plane" in parts)) as display:
        for part in each:
            for run, solution in zip(runs, found, strict=True):
                with_bar = _Shown(display, f"{part}, {solution.label}")
                run[part] = with_bar(EACH[part], solution, look)
        if "plane" in parts:
            through = found[:THREE]
            content["plane"] = _Shown(display, "plane")(measured.plane, through, look)
    if "sharpness" in parts:
        for run, solution in zip(runs, found, strict=True):
            if history := solution.sharpness():
                epochs, values = zip(*history, strict=True)
                run["sharpness"] = {"epochs": epochs, "values": values}
    return content


class _Shown:
    """Measures one thing, while a bar shows how far it is."""

    def __init__(self, display: Display, title: str):
        self._display, self._title, self._shown = display, title, 0

    def __call__(self, measure: Callable[..., measured.Numbers], *args: Any) -> Any:
        self._display.begin(self._title, WHOLE)
        found = measure(*args, self._told)
        self._display.end("measured")
        return found

    def _told(self, done: int, total: int | None) -> None:
        now = WHOLE * done // total if total else 0
        self._display.advance(now - self._shown)
        self._shown = now


def _about(solution: Solution, loss: float) -> dict[str, Any]:
    mine = solution.job
    return {
        "label": solution.label,
        **folder.plain(mine.name, mine.experiment),
        "step": solution.step,
        "epoch": solution.step / mine.steps_per_epoch,
        "loss": loss,
    }


def _settings(config: Config, found: Sequence[Solution]) -> dict[str, Any]:
    """What was looked at, and how; no folders, since they say nothing about the result."""
    first = found[0]
    experiment, train = first.job.experiment, first.job.inputs.train
    given = dataclasses.asdict(config)
    model = title_of(experiment.model, experiment.norm)
    runs = " --run DIR" * len(found)
    return {
        "title": f"{train.title}, {model}",
        "command": cli.command(PROG, config, ("run", "out")) + runs,
        "dataset": {"title": train.title, "source": train.source},
        "has_statistics": bool(jax.tree.leaves(first.variables.rest)),
        "settings": {name: given[name] for name in ("points", "radius", "batch_size")},
        "date": datetime.date.today().isoformat(),
        "machine": files.machine(),
        "versions": files.versions(),
    }


if __name__ == "__main__":
    sys.exit(cli.run(main, None))
