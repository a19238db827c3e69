"""Scripts that train with SGD, as a user has them, and the same with `k_sam`.

Each is run by `test_moved.py` after `cross_entropy`, the model and the batch's names.
"""

NNX = (
    """
import optax
from flax import nnx

optimizer = nnx.Optimizer(model, optax.sgd(0.2, momentum=0.9), wrt=nnx.Param)


def loss_fn(model, batch):
    return cross_entropy(model(batch["x"]), batch["y"]).mean()


@nnx.jit
def train_step(model, optimizer, batch):
    loss, grads = nnx.value_and_grad(loss_fn)(model, batch)
    optimizer.update(model, grads)
    return loss
""",
    """
import optax
from flax import nnx
import ksam_jax.nnx

tx = optax.chain(ksam_jax.k_sam(rho=0.1, k=4), optax.sgd(0.2, momentum=0.9))
optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)


def loss_fn(model, batch):
    return cross_entropy(model(batch["x"]), batch["y"])


@nnx.jit
def train_step(model, optimizer, batch):
    return ksam_jax.nnx.loss(loss_fn).update(model, optimizer, batch).loss
""",
)

LINEN = (
    """
from typing import Any

import jax, optax
from flax.training import train_state


class State(train_state.TrainState):
    batch_stats: Any
    key: Any


tx = optax.sgd(0.2, momentum=0.9)
fields = {"apply_fn": model.apply, "params": params, "tx": tx, "key": key}
state = State.create(batch_stats=batch_stats, **fields)


@jax.jit
def train_step(state, batch):
    def loss_fn(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        rngs = {"dropout": jax.random.fold_in(state.key, state.step)}
        logits, after = state.apply_fn(
            variables, batch["x"], mutable=["batch_stats"], rngs=rngs
        )
        return cross_entropy(logits, batch["y"]).mean(), after["batch_stats"]

    grads, batch_stats = jax.grad(loss_fn, has_aux=True)(state.params)
    return state.apply_gradients(grads=grads, batch_stats=batch_stats)
""",
    """
import jax, optax
import ksam_jax.linen


tx = optax.chain(ksam_jax.k_sam(rho=0.1, k=4), optax.sgd(0.2, momentum=0.9))
fields = {"apply_fn": model.apply, "params": params, "tx": tx, "key": key}
state = ksam_jax.linen.TrainState.create(variables={"batch_stats": batch_stats}, **fields)


@jax.jit
def train_step(state, batch):
    loss = lambda apply, batch: cross_entropy(apply(batch["x"]), batch["y"])
    return state.apply_gradients(loss=ksam_jax.linen.loss(loss), batch=batch)
""",
)

EQUINOX = (
    """
import equinox as eqx
import jax, optax

tx = optax.sgd(0.2, momentum=0.9)
opt_state = tx.init(eqx.filter(model, eqx.is_inexact_array))


def loss_fn(model, example, key, state):
    logits, state = model(example["x"], state, key)
    return cross_entropy(logits, example["y"]), state


@eqx.filter_jit
def train_step(model, opt_state, batch, key, state):
    def mean_loss(model):
        keys = jax.random.split(key, len(batch["y"]))
        each = jax.vmap(
            loss_fn, (None, 0, 0, None), out_axes=(0, None), axis_name="batch"
        )
        losses, after = each(model, batch, keys, state)
        return losses.mean(), after

    grads, state = eqx.filter_grad(mean_loss, has_aux=True)(model)
    updates, opt_state = tx.update(grads, opt_state)
    return eqx.apply_updates(model, updates), opt_state, state
""",
    """
import equinox as eqx
import jax, optax
import ksam_jax.equinox

tx = optax.chain(ksam_jax.k_sam(rho=0.1, k=4), optax.sgd(0.2, momentum=0.9))
opt_state = tx.init(eqx.filter(model, eqx.is_inexact_array))


def loss_fn(model, example, key, state):
    logits, state = model(example["x"], state, key)
    return cross_entropy(logits, example["y"]), state


@eqx.filter_jit
def train_step(model, opt_state, batch, key, state):
    loss = ksam_jax.equinox.loss(loss_fn)
    step = loss.update(model, tx, opt_state, batch, key=key, state=state)
    return step.model, step.opt_state, step.state
""",
)
