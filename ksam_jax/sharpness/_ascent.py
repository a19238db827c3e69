"""How much the loss rises within a radius: the quantity that SAM makes small."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from ..checks import _values
from ..parts._radius import adaptive_leaves, adaptive_sizes, uphill
from ..trees._lengths import norm
from ..trees._numbers import ratio
from . import _arguments
from ._compiled import Leaves, scaled
from ._directions import gaussian
from ._problem import Problem


class Sharpness(NamedTuple):
    """What a climb within a radius found.

    Attributes:
      clean_losses: of each example at the weights, shape (N,).
      perturbed_losses: of each at the top of the climb.
      gradient_norm: Euclidean length of the gradient of the mean loss at the weights, over
        the parameters that are perturbed.
      perturbation: what is added to the weights, a tree like the parameters.
    """

    clean_losses: Float[np.ndarray, " N"]
    perturbed_losses: Float[np.ndarray, " N"]
    gradient_norm: float
    perturbation: PyTree

    @property
    def loss(self) -> float:
        """Mean loss at the weights."""
        return _mean(self.clean_losses)

    @property
    def perturbed_loss(self) -> float:
        """Mean loss at the top of the climb."""
        return _mean(self.perturbed_losses)

    @property
    def rises(self) -> Float[np.ndarray, " N"]:
        """How much each example's loss rises by the common perturbation."""
        return self.perturbed_losses - self.clean_losses

    @property
    def value(self) -> float:
        """The sharpness: how much the mean loss rises."""
        return _mean(self.rises)


def sam_sharpness(
    loss_fn: Any,
    params: PyTree,
    batches: Any,
    *,
    rho: Any = 0.05,
    num_steps: Any = 1,
    seed: Any = 0,
    mask: Any = None,
    has_aux: Any = False,
    num_microbatches: Any = 1,
    progress: Any = True,
) -> Sharpness:
    r"""The largest rise of the mean loss within a distance of the weights.

    .. math:: \max_{\|\epsilon\|_2 \le \rho} L(w + \epsilon) - L(w)

    With one step it is SAM's own estimate, :math:`\epsilon = \rho \nabla L / \|\nabla L\|`:
    cheap, and too low where the loss curves. With more it is found by projected gradient
    ascent from there, whose steps halve when they no longer climb, or lead to where the
    loss isn't finite: a lower bound, at least 0, that never falls with more steps. A zero
    gradient has no direction: one step then says 0, and more begin at random.

    Args:
      loss_fn: `(params, batch) -> (N,)`, one loss per example, as in training. As with
        `jax.jit`, what it closes over is read when the function is first traced: what
        changes between two calls, such as BatchNorm's statistics, belongs into `params`,
        and out of `mask`.
      params: pytree of floating-point arrays, sharded or not; in float32 or wider.
      batches: a list of batches, or what else can be iterated over again and again, with
        the same examples in the same order, but no tuple; each as in training, all leaves
        with the leading axis N, which may differ.
      rho: radius in the parameters' units, above 0.
      num_steps: gradient steps, at least 1; each is a pass over all batches.
      seed: of the random beginning.
      mask: which parameters are perturbed, as in `ksam_jax.sam`; None for all.
      has_aux: whether `loss_fn` returns `(losses, aux)`; aux is ignored.
      num_microbatches: computes each batch in so many parts, for memory; for losses that
        don't couple examples.
      progress: a bar on a terminal or in a notebook; False for none, or a function of
        batches done and batches in all (None if `batches` has no length).

    Returns:
      A `Sharpness`; `value` is the rise.

    Raises:
      ValueError: if `rho` isn't above 0, `num_steps` below 1, there are no examples, the
        loss has another shape, or it or its derivatives aren't finite (`NonFiniteError`).
      TypeError: if an argument has the wrong type, `batches` is a single batch or a used-up
        iterator, or `params` is traced.

    Example:
      >>> import jax.numpy as jnp
      >>> from ksam_jax import sharpness
      >>> def loss_fn(w, batch):
      ...     return 0.5 * (batch["x"] * (w - 1.0)) ** 2
      >>> batches = [{"x": jnp.array([1.0, 2.0, 3.0])}, {"x": jnp.array([4.0])}]
      >>> found = sharpness.sam_sharpness(loss_fn, jnp.array([3.0]), batches, rho=0.1)
      >>> round(found.loss, 3), round(found.value, 3)  # 3.75 (2.1**2 - 2**2)
      (15.0, 1.537)

    Reference:
      Foret et al., Sharpness-Aware Minimization, ICLR 2021, equation 1; several steps as in
      Andriushchenko et al., A Modern Look at the Relationship between Sharpness and
      Generalization, ICML 2023.
    """
    problem = Problem(
        "sam_sharpness", loss_fn, params, batches, mask, has_aux, num_microbatches, progress
    )
    sizes = [jnp.ones((), x.dtype) for x in problem.free]
    return _climb(problem, sizes, rho, num_steps, seed)


def adaptive_sharpness(
    loss_fn: Any,
    params: PyTree,
    batches: Any,
    *,
    rho: Any = 0.5,
    eta: Any = 0.01,
    adaptive_mask: Any = None,
    num_steps: Any = 1,
    seed: Any = 0,
    mask: Any = None,
    has_aux: Any = False,
    num_microbatches: Any = 1,
    progress: Any = True,
) -> Sharpness:
    r"""The largest rise of the mean loss within a distance measured by the weights' size.

    .. math:: \max_{\|T^{-1} \epsilon\|_2 \le \rho} L(w + \epsilon) - L(w),
      \qquad T = |w| + \eta

    Rescaling a layer and undoing it in the next doesn't change it, while it changes
    `sam_sharpness` and the Hessian at will. (But for `eta`, and for leaves that aren't
    measured by their size, by default biases.)

    Args:
      loss_fn: as in `sam_sharpness`.
      params: likewise.
      batches: likewise.
      rho: radius, relative to the weights, above 0.
      eta: added to the modulus of each weight, at least 0.
      adaptive_mask: which leaves are measured by their size: a pytree of bools or a
        function of the parameters. None: leaves of two axes or more; T = 1 elsewhere.
      num_steps: as in `sam_sharpness`.
      seed: likewise.
      mask: likewise.
      has_aux: likewise.
      num_microbatches: likewise.
      progress: likewise.

    Returns:
      A `Sharpness`; `value` is the rise.

    Raises:
      ValueError: as `sam_sharpness`, or if `eta` is negative.
      TypeError: as `sam_sharpness`.

    Example:
      >>> import jax.numpy as jnp
      >>> from ksam_jax import sharpness
      >>> def loss_fn(w, batch):
      ...     return batch["x"] * w["first"][0, 0] * w["second"][0, 0]
      >>> batches = [{"x": jnp.array([2.0])}]
      >>> for scale in (1.0, 4.0):
      ...     w = {"first": jnp.array([[scale]]), "second": jnp.array([[1.0 / scale]])}
      ...     found = sharpness.adaptive_sharpness(loss_fn, w, batches, rho=0.5, eta=0.0)
      ...     print(round(found.value, 4))
      1.6642
      1.6642

    Reference:
      Kwon et al., ASAM, ICML 2021, equation 3.
    """
    problem = Problem(
        "adaptive_sharpness",
        loss_fn,
        params,
        batches,
        mask,
        has_aux,
        num_microbatches,
        progress,
    )
    _values.weight(problem.call, "eta", eta)
    flags = adaptive_leaves(problem.call, "adaptive_mask", adaptive_mask, problem.params)
    sizes = problem.leaves(adaptive_sizes(problem.params, flags, eta))
    return _climb(problem, sizes, rho, num_steps, seed)


def _climb(
    problem: Problem, sizes: Leaves, rho: Any, num_steps: Any, seed: Any
) -> Sharpness:
    rho = _arguments.radius(problem.call, rho)
    _values.size(problem.call, "num_steps", num_steps)
    _values.seed(problem.call, seed)
    with problem.showing("sharpness", 1 + num_steps):
        clean, gradient = problem.gradient()
        gradient, scale = _scaled(gradient)
        length = float(scale * norm(gradient))
        epsilon = _uphill(gradient, sizes, rho)
        if num_steps == 1:
            losses = problem.losses(_moved(problem.free, epsilon))
        else:
            beginning = gradient if length else gaussian(gradient, seed)
            climb = _Climb(problem, sizes, rho, clean, beginning, wanders=not length)
            losses, epsilon = climb.best(num_steps)
    return Sharpness(clean, losses, length, problem.tree(epsilon))


class _Climb:
    """Projected gradient ascent from the weights, which remembers the highest place."""

    def __init__(
        self,
        problem: Problem,
        sizes: Leaves,
        rho: float,
        clean: np.ndarray,
        gradient: Leaves,
        *,
        wanders: bool,
    ):
        self._problem, self._sizes, self._rho = problem, sizes, rho
        self._reach, self._gradient, self._wanders = rho, gradient, wanders
        self._here = [jnp.zeros_like(x) for x in problem.free]
        self._best, self._losses = self._here, clean

    def best(self, num_steps: int) -> tuple[np.ndarray, Leaves]:
        """The losses at the highest place that the steps find, and where it is."""
        failed: _arguments.NonFiniteError | None = None
        was_finite = False
        for _ in range(num_steps):
            try:
                self._step()
                was_finite = True
            except _arguments.NonFiniteError as error:
                self._reach, failed = self._reach / 2, error
        if failed is not None and not was_finite:
            raise failed
        return self._losses, self._best

    def _step(self) -> None:
        ahead = _moved(self._here, _uphill(self._gradient, self._sizes, self._reach))
        trial = _within(ahead, self._sizes, self._rho)
        losses, gradient = self._problem.gradient(_moved(self._problem.free, trial))
        if _mean(losses) > _mean(self._losses):
            self._best, self._losses, self._wanders = trial, losses, False
        elif not self._wanders:
            self._reach /= 2
            return
        # From a random beginning it goes on downhill, too, until the way up is found.
        self._here, self._gradient = trial, gradient


_uphill = jax.jit(uphill)
_scaled = jax.jit(scaled)


@jax.jit
def _moved(free: Leaves, epsilon: Leaves) -> Leaves:
    return [x + e.astype(x.dtype) for x, e in zip(free, epsilon, strict=True)]


@jax.jit
def _within(epsilon: Leaves, sizes: Leaves, rho: Any) -> Leaves:
    """The nearest place along the same ray that isn't further away than `rho`."""
    # A weight of size 0 doesn't move, so what it is divided by doesn't matter.
    measured = [e / jnp.where(t > 0, t, 1) for e, t in zip(epsilon, sizes, strict=True)]
    length = norm(measured)
    factor = jnp.where(length > rho, ratio(jnp.asarray(rho, length.dtype), length), 1)
    return [e * factor.astype(e.dtype) for e in epsilon]


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values, dtype=np.float64))
