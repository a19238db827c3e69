"""A method: what it answers to the four questions, and how its step is carried out."""

from typing import Any, NamedTuple

import optax
from jaxtyping import PyTree

from ..checks import _kinds, _values
from ..parts._ascent import Ascent
from ..parts._selection import Selection
from ..parts._sized import SizedSelection

# At the unperturbed weights, or at the perturbed ones.
AUX = ("clean", "perturbed")
# Everything that a step can say of itself, or what the losses say, which are there anyway.
INFO = ("all", "losses")


class Execution(NamedTuple):
    """How a step is carried out: the keyword arguments that all methods share."""

    mask: Any = None
    perturbed_dtype: Any = None
    axis_name: Any = None
    sync_ascent: Any = True
    groups: Any = None
    num_microbatches: Any = None
    info: Any = "all"

    def checked(self, call: str) -> "Execution":
        """With the numbers of parts known; raises for what breaks a rule."""
        _kinds.float_dtype(call, self.perturbed_dtype)
        _kinds.devices(call, self.axis_name, self.sync_ascent, self.groups)
        _kinds.one_of(call, "info", self.info, INFO)
        return self._replace(
            groups=_values.parts(call, "groups", self.groups),
            num_microbatches=_values.parts(call, "num_microbatches", self.num_microbatches),
        )


def execution_of(transformation: optax.GradientTransformation) -> Execution | None:
    """How the steps of one of our transformations are carried out; None if it isn't one.

    (Nor of one that is wrapped: what Optax makes of it doesn't say.)
    """
    return getattr(transformation.update, "execution", None)


class Method(NamedTuple):
    """Answers to the four questions, and what of the execution a device has to know.

    Attributes:
      call: as the user typed it.
      ascent: which examples point uphill; None: there is no climb.
      perturbation: direction and length of the climb; None likewise.
      descent: which examples decide the descent.
      combine: what is made of the two gradients; None for the descent gradient.
      flags: which parameters are perturbed, one bool per leaf; None for all.
      perturbed_dtype: of the perturbed weights; None for the parameters' own.
      sync_ascent: whether all devices climb together.
      climbs: False where a climb isn't worth its cost, or not yet. The perturbation's state
        goes on as with one; that of a climb's own selection, which runs nothing, stays.
      coverage: the selection of whose sizes this method has one; None for none.
      coverage_in: the field of the state in which that selection remembers.
      aux: of which pass over the whole batch aux is, one of `AUX`.
      info: how much the step says of itself, one of `INFO`.
    """

    call: str
    ascent: Selection | Ascent | None
    perturbation: optax.GradientTransformation | None
    descent: Selection
    combine: optax.GradientTransformation | None = None
    flags: PyTree | None = None
    perturbed_dtype: Any = None
    sync_ascent: bool = True
    climbs: bool = True
    coverage: SizedSelection | None = None
    coverage_in: str = ""
    aux: str = "clean"
    info: str = "all"

    @property
    def sized(self) -> SizedSelection | None:
        """The selection that has several sizes, if there is one."""
        found = [x for x in self.selections if isinstance(x, SizedSelection)]
        return found[0] if found else None

    def of_size(self, number: int, n: int) -> "Method":
        """The method with one of the sizes, of n examples."""
        sized = self.sized
        assert sized is not None
        size = sized.sizes[number]
        climbs = sized.climbs(number, n)
        return self._replace(
            ascent=size if self.ascent is sized else self.ascent,
            descent=size if self.descent is sized else self.descent,
            climbs=climbs,
            sync_ascent=self.sync_ascent or not climbs,
            coverage=sized,
            coverage_in="ascent" if self.ascent is sized else "descent",
        )

    @property
    def selections(self) -> list[Selection]:
        """Those of the passes that are run."""
        return [x for x in (self.ascent, self.descent) if isinstance(x, Selection)]

    @property
    def selects(self) -> bool:
        """Whether one of the passes runs on examples that it chooses."""
        return any(x.choose is not None for x in self.selections)

    @property
    def descends_on_the_same(self) -> bool:
        """Whether the descent takes the examples of the climb, and shares its state."""
        return self.descent is self.ascent

    @property
    def needs_clean(self) -> bool:
        """Whether choosing needs the losses at the unperturbed weights.

        Without an ascent pass the first losses of the step are those at the perturbed ones.
        """
        if self.coverage is not None and isinstance(self.ascent, Selection):
            return True
        reads = {word for selection in self.selections for word in selection.reads}
        runs_a_climb = isinstance(self.ascent, Selection)
        return "clean" in reads or (runs_a_climb and "first" in reads)
