"""Question 1 as the step asks it: where does the gradient to climb along come from?"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import PyTree

from . import _leaves
from ._mask import hide, unhide
from ._passes import GradientPass, Problem, given_gradient, gradient_pass
from ._past_descent import PastDescent, average_in, backwards, no_past
from ._selection import Evidence, Selection


class Ascent(NamedTuple):
    """The climb of a method, with or without a gradient of its own.

    Attributes:
      call: as the user typed it.
      selection: whose examples it uses; None if it runs none.
      climbs_on_all: whether a gradient over the whole batch can stand in for its own.
      init: `(flags, params) -> state`, `flags` naming the perturbed parameters.
      run: `(problem, params, given, flags, state, look_first) -> GradientPass`.
      after: `(flags, descent gradient, state) -> state`, once the step is done.
    """

    call: str
    selection: Selection | None
    climbs_on_all: bool
    init: Callable[[PyTree, PyTree], Any]
    run: Callable[[Problem, PyTree, PyTree, PyTree, Any, bool], GradientPass]
    after: Callable[[PyTree, PyTree, Any], Any]


def climbing(ascent: Selection | PastDescent) -> Ascent:
    """What the `ascent` of `sharpness_aware` does."""
    return _by_past(ascent) if isinstance(ascent, PastDescent) else _by_gradient(ascent)


def _by_gradient(selection: Selection) -> Ascent:
    def run(problem, params, given, flags, state, look_first):
        del flags
        if given is not None:
            return given_gradient(given, problem, params, state, look_first)
        see = functools.partial(Evidence, problem.batch)
        return gradient_pass(problem, params, selection, state, see, look_first)

    return Ascent(
        selection.call,
        selection,
        selection.choose is None,
        init=lambda flags, params: selection.init(),
        run=run,
        after=lambda flags, descent, state: state,
    )


def _by_past(past: PastDescent) -> Ascent:
    def run(problem, params, given, flags, state, look_first):
        del given
        known = "those that tx.init was given"
        _leaves.alike("tx.update", "params", hide(flags, params), state.average, known)
        gradient = unhide(flags, backwards(state), params)
        return given_gradient(gradient, problem, params, state, look_first)

    def after(flags, descent, state):
        return average_in(past, state, hide(flags, descent))

    def init(flags, params):
        return no_past(hide(flags, params))

    return Ascent(past.call, None, False, init, run, after)
