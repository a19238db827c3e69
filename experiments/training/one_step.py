"""One step of each method of a comparison, compiled to be measured."""

from collections.abc import Mapping
from functools import partial

import jax
import numpy as np

from experiments.configs.compare import Protocol
from experiments.costs import cost
from experiments.costs.timing import operations
from experiments.data.examples import Batch, Examples
from experiments.methods import METHODS, Hyperparameters
from experiments.models import PureModel
from experiments.training.replicas import one_run, train_step, trainer
from experiments.training.splits import training_split
from experiments.training.study import Study


def steps(
    model: PureModel,
    protocol: Protocol,
    batch: Examples | Batch,
    chosen: Mapping[str, Hyperparameters],
) -> dict[str, cost.Step]:
    """One compiled step of one replica for each method, to be measured.

    Args:
      model: what is trained.
      protocol: as in training.
      batch: one batch of training examples.
      chosen: hyperparameters of each method.
    """
    batch = jax.device_put(batch)
    return {
        name: _step(name, model, protocol, batch, values) for name, values in chosen.items()
    }


def _step(
    name: str,
    model: PureModel,
    protocol: Protocol,
    batch: Examples | Batch,
    values: Hyperparameters,
) -> cost.Step:
    run, method = one_run(0, values), METHODS[name]
    replicas = trainer(method, model, protocol).init(jax.tree.map(lambda x: x[None], run))
    replica = jax.tree.map(lambda leaf: leaf[0], replicas)
    step = jax.jit(partial(train_step, method, model, protocol), donate_argnums=0)
    compiled = step.lower(replica, run, batch).compile()
    return cost.carried(
        operations(compiled), lambda state: compiled(state, run, batch), replica
    )


def one_batch(study: Study) -> Batch:
    """The first training examples of split 0, to measure a step on."""
    train = training_split(study.dataset, study.protocol, 0, study.label_noise).train
    size = study.protocol.experiment.batch_size
    return Batch(train.inputs[:size], train.labels[:size], np.arange(size))
