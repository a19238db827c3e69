"""What a selection is: how to choose examples, and what it looks at to choose them.

A selection is decided before or between the two passes, from the losses of the examples
at the clean and, for the descent, at the perturbed weights, or from what it remembers. It
has a static size, so the sub-batch has a static shape.
"""

import dataclasses
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
import optax
from jaxtyping import Array, Float, Int, PyTree

from ..checks import _kinds
from ..loss._rows import Chosen
from ._counts import ExampleCount, example_count

READS = ("first", "clean", "perturbed")


class Evidence(NamedTuple):
    """What a selection may look at; a loss that isn't known is None.

    N are the examples to choose among: those of one device, or of one group. Losses are
    constants to differentiation.

    Attributes:
      batch: the examples, every leaf of shape `(N, ...)`.
      clean: their losses at the unperturbed weights, shape `(N,)`.
      perturbed: their losses at the perturbed weights, shape `(N,)`.
      group: the number of this device or group, a scalar; None if there is only one. For
        random draws that are to differ between them.

    Example:
      >>> import jax.numpy as jnp
      >>> import ksam_jax
      >>> evidence = ksam_jax.Evidence({"x": jnp.ones((3, 2))}, clean=jnp.ones(3))
      >>> evidence.num_examples, evidence.first.shape
      (3, (3,))
    """

    batch: PyTree
    clean: Float[Array, " N"] | None = None
    perturbed: Float[Array, " N"] | None = None
    group: Int[Array, ""] | None = None

    @property
    def num_examples(self) -> int:
        """N."""
        return jax.tree.leaves(self.batch)[0].shape[0]

    def number(self, k: Any) -> int:
        """How many of these N examples are meant by `k`, a number or a fraction of them."""
        if not isinstance(k, ExampleCount):
            k = example_count("evidence.number", "k", k)
        return k.of(self.num_examples, one_of_several=self.group is not None)

    @property
    def first(self) -> Float[Array, " N"]:
        """The losses of the step's first pass: at the clean weights if one ran there."""
        first = self.perturbed if self.clean is None else self.clean
        if first is None:
            raise ValueError(
                "evidence.first: no pass has run the whole batch, since nobody said that "
                'its losses are read; make it Selection(choose, reads={"first"}).'
            )
        return first


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Selection:
    r"""Which examples take part in a gradient: how they are chosen, and from what.

    .. math:: (i, \omega), s_t = \mathrm{choose}(\mathrm{evidence}, s_{t-1}), \qquad
      g = \sum_j \omega_j \nabla \ell_{i_j}

    What `everything`, `highest_loss` and the others return, and how to write one's own.
    The same object as ascent and descent means the very same examples in both.

    Args:
      choose: `(evidence, state) -> (Chosen, state)`, traced with the step: from an
        `Evidence` to a `Chosen` of static size. On several devices and in groups it runs
        on each one's own examples, and the state it returns must be the same for all: it
        may count steps, but not depend on the examples (`learn` may). None: all examples,
        with equal weight, and nothing is gathered.
      reads: the losses of the whole batch that `choose` needs, a collection of "first" (of
        the step's first pass, wherever it runs: a climb of `past_descent` has none at the
        clean weights), "clean" and "perturbed" (for the descent only). What nobody reads
        may be None, and costs nothing.
      init: `() -> state`, a pytree of arrays.
      learn: `(batch, chosen, losses, state, join) -> state`, called after the pass with
        the losses of the chosen, shape `(rows,)` as `chosen.take(batch)`; `join(tree)`
        puts the devices' arrays one after another, so that the state that is returned can
        be the same on all; what doesn't go through it is refused there. Only with a
        `choose`. None: there is nothing to remember.
      call: what messages call it; empty for the name of `choose`.

    Raises:
      TypeError: if a function isn't callable, `reads` no collection or `call` no string; in
        `update` if `choose` doesn't return a `Chosen` and a state.
      ValueError: if `reads` has another word, or `learn` comes without `choose`; in
        `update` if the shapes don't fit, a state isn't like the one before, or devices
        would remember examples of their own.

    Example:
      >>> import jax.numpy as jnp
      >>> import ksam_jax
      >>> def two_lowest(evidence, state):
      ...     indices = jnp.argsort(evidence.first)[:2]
      ...     return ksam_jax.Chosen(indices, jnp.full((2,), 0.5)), state
      >>> easiest = ksam_jax.Selection(two_lowest, reads={"first"})
      >>> tx = ksam_jax.sharpness_aware(
      ...     ksam_jax.scale_to_radius(0.05), ascent=easiest, descent=easiest
      ... )

    Reference:
      None; ours.
    """

    choose: Callable[[Evidence, Any], tuple[Chosen, Any]] | None
    reads: Collection[str] = frozenset()
    init: Callable[[], Any] = optax.EmptyState
    learn: Callable[[PyTree, Chosen, Array, Any, Callable], Any] | None = None
    call: str = ""

    def __post_init__(self) -> None:
        for name in ("choose", "init", "learn"):
            value = getattr(self, name)
            if value is not None or name == "init":
                _kinds.function("Selection", name, value)
        if self.choose is None and self.learn is not None:
            raise ValueError(
                "Selection(choose=None, learn=...): learn must come with a choose, since "
                "without one all examples are taken and nothing is noted; choose all rows, "
                "or leave learn out."
            )
        reads = _kinds.words("Selection", "reads", self.reads, READS)
        object.__setattr__(self, "reads", reads)
        object.__setattr__(self, "call", _kinds.name("Selection", self.call, self.choose))

    def __repr__(self) -> str:
        return self.call
