"""What a step says about itself."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ..loss._rows import Chosen, split_groups, weighted_mean
from ..parts._following import losses_to_carry
from ..parts._selection import Selection
from ..trees._lengths import norm, norm_and_cosine
from ..trees._mask import only
from ..trees._numbers import ratio, real_dtype, widen
from ._gradient import Gradient, Problem
from ._method import Method

# What isn't known. Not NaN or infinite, so that jax_debug_nans and jax_debug_infs stop at
# real ones only; and a power of two, of which a mean over devices or steps is itself.
UNKNOWN = 2.0**100


class SharpnessAwareInfo(NamedTuple):
    """What the two passes of a step say about it; read it with `get_info`.

    All are scalars in float32 (float64 for float64 parameters), zero before the first
    step, and 2**100 (1.27e30) where the step didn't compute what they need: a gradient was
    handed in, no pass ran at the unperturbed weights (`momentum_sam`), the two passes
    shared no example, or the method was made with `info="losses"`, which knows neither norm
    nor the cosine. `info.known` tells where. (Neither NaN nor infinite, so that
    `jax_debug_nans` and `jax_debug_infs` stop at real ones only.)

    Attributes:
      loss: mean loss at the unperturbed weights over the examples run there: the whole
        batch, for `random_sam` its random subset.
      perturbed_loss: mean loss at the perturbed weights over the examples run there: the
        whole batch, for `k_sam` the chosen k. Of chosen ones it is the mean by weights. In
        a step without a climb it is `loss`.
      sharpness: mean rise of the loss from the one to the other, over the examples that
        were run at both. (With a loss that couples examples, as BatchNorm does, it also has
        what another company does to their losses where one pass ran the whole batch and
        the other a part: in `random_sam` without aux, and in combinations that choose
        anew for the descent.)
      ascent_norm: norm of the ascent gradient, over the perturbed parameters; of the
        average of past gradients for `momentum_sam`.
      perturbation_norm: norm of the perturbation as applied, after rounding to the dtype
        of the perturbed weights. About rho for most methods, rho/sqrt(beta) for `esam`
        (rho/beta with `mask_per="tensor"`), and for `asam` whatever length rho has in its
        metric. Zero: the step was a plain one.
      cosine: between the ascent gradient and the descent gradient, over the perturbed
        parameters; zero if one of them is zero.
      examples: share of the examples that decide the descent.
      carried: share of the loss that these carry, at the weights where they were chosen;
        negative losses carry nothing. Unknown where no pass ran the whole batch there.
    """

    loss: Float[Array, ""]
    perturbed_loss: Float[Array, ""]
    sharpness: Float[Array, ""]
    ascent_norm: Float[Array, ""]
    perturbation_norm: Float[Array, ""]
    cosine: Float[Array, ""]
    examples: Float[Array, ""]
    carried: Float[Array, ""]

    @property
    def known(self) -> "SharpnessAwareInfo":
        """For each of the numbers a bool: whether the step knows it."""
        return SharpnessAwareInfo(*(x != UNKNOWN for x in self))


def blank_info(params: PyTree) -> SharpnessAwareInfo:
    """Zeros, each in a buffer of its own so that the state can be donated."""
    dtype = real_dtype(params)
    return SharpnessAwareInfo(*(jnp.zeros((), dtype) for _ in SharpnessAwareInfo._fields))


def what_losses_tell(
    method: Method,
    problem: Problem,
    climb: Gradient,
    fall: Gradient,
    like: SharpnessAwareInfo,
) -> Float[Array, " numbers"]:
    """What a device has to tell of its losses: of the info, and what is to be measured."""
    told = _mean(climb.losses, climb), _mean(fall.losses, fall), _rise(climb, fall)
    # Those that choose, if they are known of all: at the weights of the first pass.
    runs_first = climb if isinstance(method.ascent, Selection) else fall
    losses = None if runs_first.rows is not None else runs_first.losses
    told = *told, *_taken(problem, fall.chosen, losses)
    if method.coverage is not None:
        assert losses is not None
        parts = split_groups(widen(losses), problem.groups)
        told = *told, *jnp.mean(jax.vmap(method.coverage.measure)(parts), axis=0)
    return jnp.stack([x.astype(like.loss.dtype) for x in told])


def _taken(
    problem: Problem, chosen: Chosen | None, losses: Array | None
) -> tuple[Array, Array]:
    """The share of the examples that the descent takes, and of the loss that they carry."""
    if chosen is None:
        return jnp.ones(()), jnp.ones(())
    counts = chosen.row_weights != 0
    share = jnp.sum(counts.astype(jnp.float32)) / problem.num_examples
    if losses is None:
        return share, _unknown()
    # Of each group by itself, as each device does for its own.
    losses = losses_to_carry(losses)
    mine = jnp.where(counts, chosen.take(losses), 0)
    parts = split_groups((mine, losses), problem.groups)
    mine, total = (jnp.sum(x, axis=1) for x in parts)
    carried = jnp.where(total > 0, ratio(mine, total), share.astype(total.dtype))
    return share, jnp.mean(carried)


def geometry(
    method: Method,
    problem: Problem,
    params: PyTree,
    climbed: PyTree,
    fallen: PyTree,
    applied: Float[Array, ""],
    like: SharpnessAwareInfo,
) -> Float[Array, "3"]:
    """The second half, from the two gradients over the parameters that are perturbed.

    Where nobody asks for it it isn't computed; with a loss scale somebody asks for the
    first number, whether it is finite.
    """
    climbed = jax.tree.map(widen, only(method.flags, climbed))
    told = _unknown(), _unknown(), _unknown()
    if method.info == "all":
        # The descent gradient may have been taken at weights of another dtype.
        fallen = only(method.flags, fallen)
        fallen = jax.tree.map(lambda f, c: f.astype(c.dtype), fallen, climbed)
        length, cosine = norm_and_cosine(climbed, fallen, like=params)
        told = length, applied, cosine
    elif problem.loss.scale is not None:
        told = norm(climbed, like=params), *told[1:]
    return jnp.stack([x.astype(like.loss.dtype) for x in told])


def asked_for(method: Method, info: SharpnessAwareInfo) -> SharpnessAwareInfo:
    """The info without what wasn't."""
    if method.info == "all":
        return info
    unknown = _unknown().astype(info.loss.dtype)
    return info._replace(ascent_norm=unknown, perturbation_norm=unknown, cosine=unknown)


def as_info(told: Float[Array, " numbers"]) -> tuple[SharpnessAwareInfo, Array]:
    """What was told, as scalars, and what was measured for a selection to learn from."""
    losses, measured = told[:5], told[5:-3]
    # The mean over devices divides, which may have rounded.
    is_unknown = jnp.abs(losses / UNKNOWN - 1) < 1e-5
    losses = jnp.where(is_unknown, jnp.full_like(losses, UNKNOWN), losses)
    loss, perturbed, rise, examples, carried = losses
    length, applied, cosine = told[-3:]
    info = SharpnessAwareInfo(
        loss, perturbed, rise, length, applied, cosine, examples, carried
    )
    return info, measured


def _mean(losses: Array | None, run: Gradient) -> Array:
    if losses is None:
        return _unknown()
    return _average(widen(losses), run.rows)


def _rise(climb: Gradient, fall: Gradient) -> Array:
    """Mean rise over the examples whose loss is known at both weights."""
    if climb.losses is None or fall.losses is None:
        return _unknown()
    before, after, rows = climb.losses, fall.losses, fall.rows
    if climb.rows is None and rows is not None:
        own = climb.chosen_losses if climb.chosen is rows else None
        before = rows.take(before) if own is None else own
    elif climb.rows is not None and rows is None:
        rows, after = climb.rows, climb.rows.take(after)
    elif climb.rows is not rows:
        return _unknown()
    after = widen(after)
    return _average(after - before.astype(after.dtype), rows)


def _average(values: Array, rows: Chosen | None) -> Array:
    return jnp.mean(values) if rows is None else weighted_mean(values, rows)


def _unknown() -> Array:
    return jnp.full((), UNKNOWN)
