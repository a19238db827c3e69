"""Convolutions of a branch, in the one form that XLA's CPU backend is fast with.

XLA puts a convolution for the CPU into that form (batch first, features last) only where it
stands in the program itself. In a branch of `lax.switch`, or in a loop, the gradients of a
convolution, which come with other orders of axes, run up to seventy times slower. With the
axes moved by hand it is the same sum at the same speed as elsewhere. Other backends choose
their own layouts in branches as well, and are left alone.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, JaxprEqn, Literal, jaxpr_as_fun
from jaxtyping import Array, PyTree

from ..nodes._programs import ClosedJaxpr, called

# Names of the primitives of jax.jit and jax.checkpoint, in one version and another.
CALLS, CHECKPOINTS = ("jit", "pjit"), ("checkpoint", "remat2", "remat")


def with_fast_convolutions(branch: Callable[[], PyTree]) -> Callable[[], PyTree]:
    """The branch, with its convolutions rewritten where that is worth it."""
    if jax.default_backend() != "cpu":
        return branch
    # Traced here and nowhere else, since that may take long.
    closed, shapes = jax.make_jaxpr(branch, return_shape=True)()
    run: Any = jaxpr_as_fun(closed)
    if _convolves(closed.jaxpr):
        run = functools.partial(_run, closed.jaxpr, closed.consts, ())
    return lambda: jax.tree.unflatten(jax.tree.structure(shapes), run())


def _convolves(jaxpr: Jaxpr) -> bool:
    """Whether there is a convolution in it, or in what it calls."""
    return any(
        eqn.primitive is jax.lax.conv_general_dilated_p
        or any(_convolves(inner) for inner in called(eqn.params))
        for eqn in jaxpr.eqns
    )


def _run(jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    """Evaluates a program, as JAX does but for convolutions."""
    known: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    known |= zip(jaxpr.invars, args, strict=True)
    for eqn in jaxpr.eqns:
        operands = [_value(known, atom) for atom in eqn.invars]
        known |= zip(eqn.outvars, _result(jaxpr, eqn, operands), strict=True)
    return [_value(known, atom) for atom in jaxpr.outvars]


def _value(known: dict[Any, Any], atom: Any) -> Any:
    return atom.val if isinstance(atom, Literal) else known[atom]


def _result(jaxpr: Jaxpr, eqn: JaxprEqn, operands: list[Any]) -> list[Any]:
    name, programs = eqn.primitive.name, called(eqn.params)
    if eqn.primitive is jax.lax.conv_general_dilated_p:
        left, right = operands
        return [_convolution(left, right, eqn.params)]
    if name in CALLS and any(map(_convolves, programs)):
        return _run(eqn.params["jaxpr"].jaxpr, eqn.params["jaxpr"].consts, operands)
    if name in CHECKPOINTS and any(map(_convolves, programs)):
        (program,) = programs
        # With what it is called with, which knows its devices.
        within = jax.make_jaxpr(lambda *args: _run(program, (), args))(*operands)
        # What it closes over would have to be handed in: there is nothing.
        if not within.consts:
            eqn = eqn.replace(params=eqn.params | {"jaxpr": within.jaxpr})
    return _as_it_is(jaxpr, eqn, operands)


def _as_it_is(jaxpr: Jaxpr, eqn: JaxprEqn, operands: list[Any]) -> list[Any]:
    """One equation of a program, evaluated by JAX."""
    given = {
        atom: operand
        for atom, operand in zip(eqn.invars, operands, strict=True)
        if not isinstance(atom, Literal)
    }
    alone = jaxpr.replace(
        constvars=[],
        invars=list(given),
        outvars=eqn.outvars,
        eqns=[eqn],
        effects=eqn.effects,
    )
    run: Any = jaxpr_as_fun(ClosedJaxpr(alone, ()))
    return run(*given.values())


def _convolution(left: Any, right: Any, params: dict[str, Any]) -> Array:
    """Batch and features first and last, input and output features last of the kernel."""
    numbers = params["dimension_numbers"]
    batch, features, *space = numbers.lhs_spec
    outputs, inputs, *window = numbers.rhs_spec
    left = jnp.transpose(left, (batch, *space, features))
    right = jnp.transpose(right, (*window, inputs, outputs))
    last = left.ndim - 1
    between = range(1, last)
    spec = (0, last, *between)
    now = type(numbers)(spec, (last, last - 1, *range(last - 1)), spec)
    found = jax.lax.conv_general_dilated_p.bind(
        left, right, **params | {"dimension_numbers": now}
    )
    batch, features, *space = numbers.out_spec
    order = sorted(zip((batch, features, *space), spec, strict=True))
    return jnp.transpose(found, [source for _, source in order])
