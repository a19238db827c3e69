"""What XLA counts in the step of an experiment, per device: operations and memory.

Only shapes are needed: no dataset, no checkpoint, and nothing of that size is ever made or
run.
"""

import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree

from experiments.configs.experiment import Experiment
from experiments.costs.full_size import Described, Memory, Step, Subject
from experiments.data import catalogue
from experiments.data.examples import Kind
from experiments.data.rows import Rows
from experiments.data.tokens import Tokens
from experiments.methods import METHODS
from experiments.models import zoo
from experiments.processes import sharded
from experiments.training.harness import programs
from experiments.training.harness.programs import Programs
from experiments.training.step import TrainState

# Of those only that are known without being there.
KINDS = {
    name: found.kind for name, found in catalogue.DATASETS.items() if found.kind is not None
}
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
    return {
        "of": about,
        **_described(experiment),
        "batch_per_device": experiment.batch_size // mesh.size,
        "parameters": made.parameters,
        "forward_operations": forward,
        "operations": float(compiled.cost_analysis()["flops"]),
        "state_bytes": _bytes(state),
        "batch_bytes": _bytes(batch) // mesh.size,
        **_memory(compiled.memory_analysis()),
        "seconds": {"trace": traced - start, "compile": done - traced},
    }


def _described(experiment: Experiment) -> Described:
    return {
        "method": METHODS[experiment.method].label,
        "is_baseline": experiment.method == experiment.optimizer,
        "dataset": catalogue.title(experiment.dataset),
        "model": zoo.title(experiment.model, experiment.norm),
    }


def _memory(found: Any) -> Memory:
    return {
        "temporary_bytes": int(found.temp_size_in_bytes),
        "argument_bytes": int(found.argument_size_in_bytes),
        "output_bytes": int(found.output_size_in_bytes),
        "alias_bytes": int(found.alias_size_in_bytes),
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
