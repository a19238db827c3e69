"""What a training step sends, computes and keeps on several devices: docs/scaling.md.

Compiles one step of every method, spread over virtual devices in three ways, and counts in
XLA's program: collectives and their bytes, operations and memory per device. Nothing is
run. A second part computes, from formulas, how long a step of a large model takes on more
and more devices, for a network of your choice.

Writes OUT/scaling/scaling.json and, next to it, the picture devices.png.

Example: python -m experiments.scaling --devices 8
"""

import datetime
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
from tyro.conf import arg

from experiments.configs.benchmark import CPU
from experiments.costs.benchmark.contenders import DEFAULT_KEEP
from experiments.costs.benchmark.task import make_task
from experiments.costs.devices import pod, spread
from experiments.costs.devices.contents import SCALING
from experiments.costs.devices.counts import count
from experiments.shell import cli, files, progress

PROG = "python -m experiments.scaling"
MODELS = tuple(name for name, workload in CPU.items() if name != "resnet18")


@dataclass(frozen=True)
class Config:
    """Options."""

    model: Annotated[str, arg(metavar="NAME", help=f"One of {', '.join(MODELS)}.")] = "vit"
    devices: Annotated[int, arg(help="Virtual devices that the batch is spread over.")] = 8
    bandwidth: Annotated[
        float, arg(help="Bytes per second of a device in the modelled all-reduce.")
    ] = pod.POD.bandwidth
    latency: Annotated[float, arg(help="Seconds per hop of the modelled network.")] = (
        pod.POD.latency
    )
    peak: Annotated[float, arg(help="Operations per second of a modelled device.")] = (
        pod.POD.peak
    )
    utilization: Annotated[float, arg(help="Share of the peak that training reaches.")] = (
        pod.POD.utilization
    )
    overlap: Annotated[
        float, arg(help="Share of a backward pass that hides its all-reduce.")
    ] = 0.0
    out: Annotated[
        Path, arg(metavar="DIR", help="The results go into the folder scaling in it.")
    ] = Path("results")


def main(argv: Sequence[str] | None = None) -> int:
    """Counts and computes, and returns the exit status."""
    config = cli.parse(Config, argv, PROG, __doc__ or "")
    _check(config)
    # Before JAX looks for its devices; on an accelerator there are those that there are.
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", config.devices)
    folder = cli.writable(config.out / "scaling")
    content = {
        "command": cli.command(PROG, config, without=("out",)),
        "date": datetime.date.today().isoformat(),
        "counted": _counted(config),
        "computed": _computed(config),
        "machine": files.machine(),
        "versions": files.versions(),
    }
    written = SCALING.write(folder / "scaling.json", content)
    pod.draw(written["computed"], folder / "devices.png")
    print(f"written: {folder / 'scaling.json'}, {folder / 'devices.png'}")
    return 0


def _check(config: Config) -> None:
    cli.one_of("model", config.model, MODELS)
    cli.at_least("devices", config.devices, 2)
    batch = CPU[config.model].batch_size
    if batch % config.devices:
        raise cli.UsageError(
            f"--devices must divide the batch of {batch}; got {config.devices}"
        )
    for name in ("bandwidth", "latency", "peak", "utilization"):
        if not getattr(config, name) > 0:
            raise cli.UsageError(f"--{name} must be above 0; got {getattr(config, name)}")
    if not 0 <= config.overlap <= 1:
        raise cli.UsageError(f"--overlap must be from 0 to 1; got {config.overlap}")


def _counted(config: Config) -> dict[str, Any]:
    """Of every method on one device, and on all of them in each way."""
    workload = CPU[config.model]
    task = make_task(workload.build("float32"))
    params, _ = jax.eval_shape(task.init, jax.random.key(0))
    cases = [("", 1), *((way, config.devices) for way in spread.WAYS)]
    sharded_arrays, sharded_share = spread.sharded_share(task, config.devices)
    console, rows = progress.console(), []
    for name, method in spread.METHODS.items():
        for way, devices in cases:
            program = spread.compiled(name, way, workload, task, devices, DEFAULT_KEEP)
            rows.append({"method": name, "way": way, **asdict(count(program.compiled))})
        console.print(f"{method.label}: counted", highlight=False)
    return {
        "model": workload.title,
        "batch": workload.batch_size,
        "devices": config.devices,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "arrays": len(jax.tree.leaves(params)),
        "sharded_arrays": sharded_arrays,
        "sharded_share": sharded_share,
        "rows": rows,
    }


def _computed(config: Config) -> dict[str, Any]:
    chosen = {
        name: getattr(config, name)
        for name in ("bandwidth", "latency", "peak", "utilization")
    }
    return pod.compute(chosen, config.overlap)


if __name__ == "__main__":
    sys.exit(cli.run(main, None))
