"""Trains on one device or on many, in one process or in many: the same steps.

An MLP learns the digits inside scikit-learn, data-parallel: every device of every process
has its part of each batch, every process loads only its own rows, and the batches don't
depend on how many processes there are. Process 0 shows the progress and writes
OUT/trajectory.json (what each step says about itself) and OUT/params.npz.

On a TPU pod, under Slurm (srun) or Open MPI, the same command on every host is enough.
Elsewhere each process is told which one it is; for two on this machine, in two shells:

  python -m experiments.launch --coordinator localhost:1234 --num-processes 2 --process-id 0
  python -m experiments.launch --coordinator localhost:1234 --num-processes 2 --process-id 1

Example: python -m experiments.launch --method k_sam --steps 30 --no-sync-ascent
"""

import inspect
import itertools
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import jax
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree
from tyro.conf import arg

import ksam_jax
from experiments import choices, cli, data, distributed, files, sharded
from experiments.configs.compare import DIGITS
from experiments.data import Batch
from experiments.loader import Loader
from experiments.methods import METHODS, Method, optimizer
from experiments.models import PureModel, pure
from experiments.training import Replica

PROG = "python -m experiments.launch"
PARALLEL = ("shard_map", "jit")

Step = Callable[[Replica, Batch], tuple[Replica, ksam_jax.SharpnessAwareInfo]]


def spreads(method: Method) -> bool:
    """Whether the method knows of several devices."""
    return "axis_name" in inspect.signature(method.gradient).parameters


METHOD_NAMES = tuple(name for name, method in METHODS.items() if spreads(method))


@dataclass(frozen=True)
class Config(distributed.Options):
    """Options of the program."""

    method: Annotated[
        str, arg(metavar="NAME", help="One of " + ", ".join(METHOD_NAMES) + ".")
    ] = "k_sam"
    steps: Annotated[int, arg(help="How many steps to train.")] = 100
    batch_size: Annotated[
        int, arg(help="Examples per step, of all processes together.")
    ] = 128
    sync_ascent: Annotated[
        bool, arg(help="Whether all devices climb together, or each on its own examples.")
    ] = True
    parallel: Annotated[
        str,
        arg(
            metavar="{" + ",".join(PARALLEL) + "}",
            help="How a step is spread: by jax.shard_map with axis_name, or by jax.jit "
            "with a group for each device.",
        ),
    ] = "shard_map"
    seed: Annotated[int, arg(help="Of the weights and of the order of the batches.")] = 0
    out: Annotated[Path, arg(metavar="DIR", help="Folder for the results.")] = Path(
        "results/launch"
    )


def main(argv: Any = None) -> int:
    """Trains, and returns the exit status."""
    config = cli.parse(Config, argv, PROG, __doc__ or "")
    _check(config)
    with distributed.start(config) as watch:
        mesh = sharded.data_mesh()
        if jax.process_index() == 0:
            cli.writable(config.out)
        dataset = data.load(DIGITS.dataset)
        _check_batch(config, mesh.size, dataset.size)
        loader = Loader(dataset, DIGITS.scale, mesh, config.batch_size, config.seed)
        with jax.set_mesh(mesh):
            replica, trajectory = _train(config, mesh, loader, watch.done)
        print(loader.report(), flush=True)
        if jax.process_index() == 0:
            _write(config, replica.params, trajectory)
    return 0


def _check(config: Config) -> None:
    cli.one_of("method", config.method, METHOD_NAMES)
    cli.one_of("parallel", config.parallel, PARALLEL)
    cli.at_least("steps", config.steps, 1)
    cli.at_least("batch-size", config.batch_size, 1)
    if config.method == "f_sam" and not config.sync_ascent:
        raise cli.UsageError("--method f_sam averages gradients, so it needs --sync-ascent")


def _check_batch(config: Config, devices: int, examples: int) -> None:
    if config.batch_size % devices or config.batch_size > examples:
        raise cli.UsageError(
            f"--batch-size must be a multiple of the number of devices, {devices}, and at "
            f"most the number of examples, {examples}; got {config.batch_size}"
        )


def _train(
    config: Config, mesh: Mesh, loader: Loader, done: Callable[[int], None]
) -> tuple[Replica, list[ksam_jax.SharpnessAwareInfo]]:
    """All the steps; returns the last replica, and what each step said."""
    dataset, trajectory = loader.dataset, []
    model = pure(DIGITS.build(dataset.image_shape, dataset.classes), DIGITS.keep)
    replica, step = _compiled(config, mesh, model, dataset.size)
    progress = Progress(config, mesh)
    for number, batch in enumerate(itertools.islice(loader.batches(), config.steps), 1):
        replica, info = step(replica, batch)
        trajectory.append(jax.device_get(info))
        done(number)
        progress.show(number, trajectory[-1])
    return replica, trajectory


def _compiled(
    config: Config, mesh: Mesh, model: PureModel, num_examples: int
) -> tuple[Replica, Step]:
    tx = _optimizer(config, mesh, num_examples)
    params = jax.tree.map(
        lambda leaf: leaf[0], model.init(jax.random.key(config.seed)[None])
    )
    replica = sharded.replicate(mesh, Replica(params, tx.init(params)))

    def step(replica: Replica, batch: Batch) -> Any:
        no_gradient: Any = None  # The method makes its own.
        updates, opt_state = tx.update(
            no_gradient,
            replica.opt_state,
            replica.params,
            loss_fn=model.losses,
            batch=batch,
        )
        params = optax.apply_updates(replica.params, updates)
        return Replica(params, opt_state), ksam_jax.get_info(opt_state)

    if config.parallel == "shard_map":
        specs = (P(), P(sharded.DATA))
        step = jax.shard_map(step, mesh=mesh, in_specs=specs, out_specs=P())
    return replica, jax.jit(step, donate_argnums=0)


def _optimizer(
    config: Config, mesh: Mesh, num_examples: int
) -> optax.GradientTransformationExtraArgs:
    """The method with the hyperparameters chosen for the digits, told of the devices."""
    many: dict[str, Any] = {"sync_ascent": config.sync_ascent}
    if config.parallel == "shard_map":
        many["axis_name"] = sharded.DATA
    else:
        many["groups"] = mesh.size
    method = METHODS[config.method]
    chosen = choices.read(choices.path_of(DIGITS.dataset, 0.0))
    chosen.require([config.method])
    return optimizer(
        replace(method, gradient=partial(method.gradient, **many)),
        chosen.choice(config.method, 0).values,
        config.seed,
        steps=config.steps,
        momentum=DIGITS.momentum,
        num_examples=num_examples,
    )


class Progress:
    """About ten lines, from process 0: the first one when a step is compiled and done."""

    def __init__(self, config: Config, mesh: Mesh):
        self._steps, self._every = config.steps, max(1, config.steps // 10)
        self._started, self._is_first = time.monotonic(), jax.process_index() == 0
        self._say(
            f"{METHODS[config.method].label}, {config.parallel}: devices {mesh.size}, "
            f"processes {jax.process_count()}"
        )

    def show(self, step: int, info: ksam_jax.SharpnessAwareInfo) -> None:
        """A line, if it is time for one."""
        if step % self._every and step not in (1, self._steps):
            return
        seconds = time.monotonic() - self._started
        self._say(f"step {step}/{self._steps}: loss {info.loss:.4f}, {seconds:.1f} s")

    def _say(self, line: str) -> None:
        if self._is_first:
            print(line, flush=True)


def _write(
    config: Config, params: PyTree, trajectory: list[ksam_jax.SharpnessAwareInfo]
) -> None:
    """Writes the results; the trajectory last, so that where it is, the rest is."""
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(params))
    named = {
        jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in leaves
    }
    files.write_npz(config.out / "params.npz", named)
    private = ("coordinator", "num_processes", "process_id", "out")
    content = {
        "command": cli.command(PROG, config, without=private),
        "processes": jax.process_count(),
        "devices": jax.device_count(),
        "trajectory": [info._asdict() for info in trajectory],
    }
    path = config.out / "trajectory.json"
    files.write_json(path, content)
    print(f"written: {config.out / 'params.npz'}, {path}", flush=True)


if __name__ == "__main__":
    sys.exit(distributed.run(main, None))
