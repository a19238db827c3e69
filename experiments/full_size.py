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
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree
from rich.console import Console
from tyro.conf import arg

from experiments.configs import rows
from experiments.configs.experiment import Experiment
from experiments.configs.full_size import CONFIGS
from experiments.data import catalogue
from experiments.data.examples import Kind
from experiments.data.pipeline import Rows
from experiments.data.tokens import Tokens
from experiments.methods import METHODS
from experiments.models import zoo
from experiments.pages import large
from experiments.pages.large import FULL_SIZE, Step, Subject
from experiments.processes import sharded
from experiments.results import terminal
from experiments.shell import cli, files, progress
from experiments.training.harness import programs
from experiments.training.harness.programs import Programs
from experiments.training.step import TrainState

PROG = "python -m experiments.full_size"
# Of those only that are known without being there.
KINDS = {
    name: found.kind for name, found in catalogue.DATASETS.items() if found.kind is not None
}
OWN = "own"
# Machine code isn't optimized, since none is run; XLA's program, which is counted, is.
QUICKLY = {"xla_backend_optimization_level": 0}


def kind_of(experiment: Experiment) -> Kind:
    """What the experiment's examples are like."""
    kind = KINDS[experiment.dataset]
    if kind.vocabulary is None:
        return kind
    is_bert = zoo.MODELS[experiment.model].bert is not None
    vocabulary = kind.vocabulary if is_bert else experiment.vocabulary
    return kind._replace(shape=(experiment.length,), vocabulary=vocabulary)


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


def count(experiment: Experiment, mesh: Mesh, about: Subject) -> Step:
    """What XLA says of the step, per device.

    Args:
      experiment: of a dataset in `KINDS`.
      mesh: that the batch is spread over.
      about: what it depends on.
    """
    start = time.perf_counter()
    kind = kind_of(experiment)
    made = programs.programs(experiment, mesh, kind)
    state, batch = made.abstract_state(mesh), abstract_rows(experiment, kind, mesh)
    lowered = lower(made, state, batch)
    traced = time.perf_counter()
    compiled: Any = lowered.compile(QUICKLY)
    done = time.perf_counter()
    judge: Any = made.judge
    forward = judge.lower(state, batch).cost_analysis()["flops"] / experiment.batch_size
    memory = compiled.memory_analysis()
    return {
        "of": about,
        "method": METHODS[experiment.method].label,
        "is_baseline": experiment.method == experiment.optimizer,
        "dataset": catalogue.title(experiment.dataset),
        "model": zoo.title(experiment.model, experiment.norm),
        "batch_per_device": experiment.batch_size // mesh.size,
        "parameters": made.parameters,
        "forward_operations": forward,
        "operations": float(compiled.cost_analysis()["flops"]),
        "state_bytes": _bytes(state),
        "batch_bytes": _bytes(batch) // mesh.size,
        "temporary_bytes": int(memory.temp_size_in_bytes),
        "argument_bytes": int(memory.argument_size_in_bytes),
        "output_bytes": int(memory.output_size_in_bytes),
        "alias_bytes": int(memory.alias_size_in_bytes),
        "seconds": {"trace": traced - start, "compile": done - traced},
    }


def abstract_rows(experiment: Experiment, kind: Kind, mesh: Mesh) -> Rows:
    """The same of a batch, as the pipeline loads it."""
    size = experiment.batch_size
    numbers = jax.ShapeDtypeStruct((size,), jnp.int32)
    inputs: Any = jax.ShapeDtypeStruct((size, *kind.shape), jnp.uint8)
    if kind.vocabulary:
        inputs = Tokens(jax.ShapeDtypeStruct((size, *kind.shape), jnp.uint16), inputs)
    batch = Rows(inputs, numbers, numbers, numbers)
    return sharded.abstract(batch, mesh, P(sharded.DATA))


def lower(made: Programs, state: TrainState, batch: Rows) -> Any:
    """The step, traced for these shapes but not compiled."""
    step: Any = made.step
    return step.lower(state, batch, jax.ShapeDtypeStruct((), jnp.int32))


def _bytes(tree: PyTree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


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
