"""What a step of a method computes and sends, by counting."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import optax


@dataclass(frozen=True)
class Traffic:
    """What a method sends in a step, and when.

    Attributes:
      climb: all-reduces of the gradient's size before the descent: 0 or 1.
      selects: whether losses of the whole batch are compared.
      numbers: of the info (for SGD: the loss), which ride in the last all-reduce. The
        geometry of a synchronized climb is known on every device anyway.
    """

    climb: int
    selects: bool
    numbers: int


@dataclass(frozen=True)
class Work:
    """Forward passes' worth of arithmetic per example, in the two parts of a step.

    Attributes:
      climb: until the ascent gradient is there.
      descent: from there on; backward passes count two.
      climb_backward: of `climb`, the backward pass, under which its all-reduce can hide.
      descent_backward: the same of `descent`.
    """

    climb: float
    descent: float
    climb_backward: float
    descent_backward: float

    @property
    def total(self) -> float:
        """Of the whole step; SGD's is 3."""
        return self.climb + self.descent


@dataclass(frozen=True)
class Cost:
    """How a method's step is made to be measured, and what it should cost.

    Attributes:
      make: makes the method; called with its share by `share_name`, with `num_examples` if
        it remembers, and with what says how it is spread over devices; None for SGD.
      passes: share -> forward passes' worth of arithmetic per example of the batch, if each
        forward pass is computed anew; SGD's are 3.
      shared: the same if the pass that selects serves the gradient too; None for methods
        that have nothing to share.
      share: the share of the examples that it is measured with first; None if it has none.
      share_name: what its paper calls the share.
      aux_is_free: whether the whole batch runs forward anyway at the weights whose aux is
        wanted. Where it doesn't, BatchNorm's statistics cost another forward pass.
      colour: in pictures of costs, if it is another one there; None: the row's.
      line: marker and line style in the picture against k.
      work: share -> its two parts; None: it isn't computed on many devices.
      traffic: what it sends; None: it isn't counted on several devices.
      apart: what it sends with a climb of each device's own; None: it isn't counted so.
    """

    make: Callable[..., optax.GradientTransformationExtraArgs] | None
    passes: Callable[[float], float]
    shared: Callable[[float], float] | None = None
    share: float | None = None
    share_name: str = "k"
    aux_is_free: bool = True
    colour: str | None = None
    line: tuple[str, str] = ("o", "-")
    work: Callable[[float], Work] | None = None
    traffic: Traffic | None = None
    apart: Traffic | None = None

    def made(
        self, share: float | None, **more: Any
    ) -> optax.GradientTransformationExtraArgs:
        """The method with that share, on devices as `more` says."""
        assert self.make is not None
        own = {} if self.share is None else {self.share_name: share or 1.0}
        return self.make(**own, **more)

    def predicted(self, share: float | None, *, is_shared: bool, has_aux: bool) -> float:
        """What a step should cost against SGD's, by counting passes.

        Args:
          share: of the examples.
          is_shared: whether the loss lets the method share a forward pass.
          has_aux: whether the loss returns statistics.
        """
        passes = self.shared if is_shared and self.shared else self.passes
        extra = 1 if has_aux and not self.aux_is_free else 0
        return (passes(share or 1.0) + extra) / 3


# What each way to train sends, with a synchronized climb and without one.
SGD = Traffic(0, False, 1)
TOGETHER, APART = Traffic(1, False, 3), Traffic(0, False, 6)
SELECTING_TOGETHER, SELECTING_APART = Traffic(1, True, 3), Traffic(0, True, 6)
# A climb along past steps sends nothing.
BY_PAST = Traffic(0, True, 3)


def sgd_work(_: float) -> Work:
    """SGD: 3."""
    return Work(0, 3, 0, 2)


def sam_work(_: float) -> Work:
    """SAM: 6."""
    return Work(3, 3, 2, 2)


def k_sam_work(k: float) -> Work:
    """K-SAM with a shared forward pass: 1 + 5k."""
    return Work(1 + 2 * k, 3 * k, 2 * k, 2 * k)


def k_momentum_sam_work(k: float) -> Work:
    """K-Momentum-SAM with a shared forward pass: 1 + 2k."""
    return Work(0, 1 + 2 * k, 0, 2 * k)
