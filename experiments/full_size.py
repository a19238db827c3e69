"""What a step of the largest models takes, per device: docs/large.md.

Compiles the step that `experiments.train` would run, ImageNet with ResNet-50 and with
ViT-S/16 and SST-2 with BERT-base, with each config's own batch spread over virtual devices,
and counts in XLA's program for CPU: operations and memory. Only shapes are needed: no
dataset, no checkpoint, and nothing of that size is ever made or run.

Writes OUT/full_size.json after each config. The same command again goes on behind those
that it has; what isn't asked for any more is dropped.

Example: python -m experiments.full_size --devices 8
"""

import dataclasses
import datetime
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import jax
from rich.console import Console
from tyro.conf import arg

from experiments.configs import rows
from experiments.configs.experiment import Experiment
from experiments.configs.full_size import CONFIGS
from experiments.costs.full_size import FULL_SIZE, Step, Subject
from experiments.models import zoo
from experiments.pages import large
from experiments.processes import sharded
from experiments.results import terminal
from experiments.shell import cli, files, progress
from experiments.training.harness.counting import KINDS, count

PROG = "python -m experiments.full_size"
OWN = "own"


@dataclass(frozen=True)
class Config:
    """Options."""

    configs: Annotated[
        tuple[str, ...], arg(metavar="NAME ...", help="Of experiments.train --list.")
    ] = CONFIGS
    devices: Annotated[int, arg(help="Virtual devices that a batch is spread over.")] = 8
    dtype: Annotated[
        str,
        arg(help="Of the computation. XLA emulates bfloat16 on CPU; own: each config's."),
    ] = "float32"
    out: Annotated[Path, arg(metavar="DIR", help="Folder for the results.")] = Path(
        "results/full_size"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Compiles and counts, and returns the exit status."""
    config = cli.parse(Config, argv, PROG, __doc__ or "")
    experiments = _experiments(config)
    # Before JAX looks for its devices; on an accelerator there are those that there are.
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", config.devices)
    path = cli.writable(config.out) / "full_size.json"
    console = progress.console()
    found = _all(config, experiments, path, console)
    content = FULL_SIZE.write(path, _content(config, found))
    for title, headers, cells in large.tables(content):
        console.print(terminal.table(headers, cells, title))
    console.print(f"written: {path}")
    return 0


def _experiments(config: Config) -> dict[str, Experiment]:
    """What is asked for, by name, as it is compiled."""
    cli.at_least("devices", config.devices, 1)
    cli.one_of("--dtype", config.dtype, (*zoo.DTYPES, OWN))
    if not config.configs:
        raise cli.UsageError("--configs has nothing to compile; name some of --list's")
    return {name: _experiment(name, config) for name in config.configs}


def _experiment(name: str, config: Config) -> Experiment:
    experiment = rows.row(name).experiment
    if experiment.dataset not in KINDS:
        raise cli.UsageError(
            f"--configs must be of {', '.join(KINDS)}, whose sizes are known here; "
            f"{name} is of {experiment.dataset}"
        )
    if experiment.batch_size % config.devices:
        raise cli.UsageError(
            f"--devices must divide the batch of {name}, {experiment.batch_size}; got "
            f"{config.devices}"
        )
    dtype = experiment.dtype if config.dtype == OWN else config.dtype
    return dataclasses.replace(experiment, dtype=dtype)


def _all(
    config: Config, experiments: Mapping[str, Experiment], path: Path, console: Console
) -> dict[str, Step]:
    """Counts of each experiment; the file is written after each."""
    known, found = _known(path), dict[str, Step]()
    mesh = sharded.data_mesh(config.devices)
    for number, (name, experiment) in enumerate(experiments.items(), start=1):
        about = _depends_on(experiment, config.devices)
        is_known = name in known and known[name]["of"] == about
        found[name] = known[name] if is_known else count(experiment, mesh, about)
        FULL_SIZE.write(path, {**_content(config, found), "complete": False})
        console.print(
            f"\\[{number}/{len(experiments)}] {name}: {_said(found[name], is_known)}",
            highlight=False,
            soft_wrap=True,
        )
    return found


def _said(entry: Step, is_known: bool) -> str:
    if is_known:
        return "was there already"
    traced, compiled = entry["seconds"]["trace"], entry["seconds"]["compile"]
    return f"traced in {traced:.0f} s, compiled in {compiled:.0f} s"


def _known(path: Path) -> dict[str, Step]:
    """What the file has; nothing if it isn't one of these."""
    found = FULL_SIZE.kept(path)
    return found["configs"] if found else {}


def _depends_on(experiment: Experiment, devices: int) -> Subject:
    settings = files.plain(dataclasses.asdict(experiment))
    return {"experiment": settings, "devices": devices, "jax": metadata.version("jax")}


def _content(config: Config, found: Mapping[str, Step]) -> dict[str, Any]:
    return {
        "command": cli.command(PROG, config, without=("out",)),
        "date": datetime.date.today().isoformat(),
        "devices": config.devices,
        "configs": found,
        "complete": True,
        "machine": files.machine(),
        "versions": files.versions(),
    }


if __name__ == "__main__":
    sys.exit(cli.run(main, None))
