"""A loss over a dataset: what every measure asks of it, batch after batch.

Losses, gradients and products are means over all examples of all batches, whatever their
sizes. A pass holds one batch and one sum on the devices at a time; results that are wanted
whole come to the host.
"""

import contextlib
import functools
import operator
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from ..checks import _arguments as _update_arguments
from ..checks import _kinds, _values
from ..trees._lengths import all_finite
from ..trees._numbers import divided
from . import _arguments, _compiled
from ._compiled import Leaves, Measured
from ._progress import shown


class Problem:
    """The mean loss of a dataset as a function of the measured parameters.

    Args:
      call: of the user, for errors.
      loss_fn: `(params, batch) -> (N,)`.
      params: where to measure; computed in float32 or wider.
      batches: what can be iterated over again and again.
      mask: which parameters are measured; None for all.
      has_aux: whether `loss_fn` returns a pair.
      num_microbatches: into how many parts each batch is cut, for memory.
      progress: shows how far it is; see `_progress.shown`.

    Attributes:
      call: of the user.
      params: all parameters, in float32 or wider.
      measured: which of their leaves the loss is seen as a function of.
      compiled: its functions of a batch.
      free: the leaves that are measured.
      fixed: the others.
      advance: moves the bar on by a batch, as `each` does behind every one.
      sizes: how many examples each batch had in the first pass.
    """

    def __init__(
        self,
        call: str,
        loss_fn: Any,
        params: PyTree,
        batches: Any,
        mask: Any,
        has_aux: Any,
        num_microbatches: Any,
        progress: Any,
    ):
        _kinds.function(call, "loss_fn", loss_fn)
        _arguments.switches(call, has_aux, progress)
        parts = _values.parts(call, "num_microbatches", num_microbatches)
        self.call = call
        self.params = _arguments.parameters(call, params)
        which = _arguments.measured_leaves(call, mask, self.params)
        treedef = jax.tree.structure(self.params)
        loss = _compiled.hashable(loss_fn)
        self.measured = Measured(loss, has_aux, parts, treedef, which)
        self.compiled = _compiled.compiled(self.measured)
        self.free, self.fixed = self.measured.split(self.params)
        _arguments.some(call, self.size)
        self._batches = _arguments.batches(call, batches)
        takes = "batches done and batches in all"
        self._progress = progress
        if not isinstance(progress, bool):
            self._progress = functools.partial(
                _kinds.called, call, "progress", progress, takes
            )
        self.advance: Callable[[], Any] = lambda: None
        self.sizes: list[int] = []
        self._checked: set[Any] = set()

    @property
    def size(self) -> int:
        """How many numbers are measured."""
        return sum(leaf.size for leaf in self.free)

    @contextlib.contextmanager
    def showing(self, title: str, passes: int) -> Iterator[None]:
        """Shows how far so many passes over the batches are."""
        total = operator.length_hint(self._batches, -1)
        total = None if total < 0 else passes * total
        with shown(title, total, self._progress) as self.advance:
            yield

    def each(self) -> Iterator[PyTree]:
        """The batches as arrays, checked."""
        sizes = []
        for batch in self._batches:
            _arguments.concrete(self.call, "batches", batch)
            arrays = _update_arguments.batch_arrays(batch, self.call, "batches")
            kind = tuple((x.shape, x.dtype) for x in jax.tree.leaves(arrays))
            if kind not in self._checked:
                _arguments.loss(self.call, self.measured, self.params, arrays)
                self._checked.add(kind)
            sizes.append(count(arrays))
            yield arrays
            self.advance()
        self.sizes = _arguments.same_sizes(self.call, self.sizes, sizes)

    def losses(self, free: Leaves | None = None) -> np.ndarray:
        """One loss per example at some weights, the measured ones by default: (N,)."""
        at = self.free if free is None else free
        run = self.compiled.losses
        found = [on_host(run(at, self.fixed, batch)) for batch in self.each()]
        return self._finite(found, free)

    def gradient(self, free: Leaves | None = None) -> tuple[np.ndarray, Leaves]:
        """The losses, and the gradient of their mean."""

        def of(batch: PyTree) -> tuple[Any, Leaves]:
            return self.weighted(batch, np.ones(count(batch), np.float32), free)

        return self._mean(of, free)

    def weighted(
        self, batch: PyTree, weights: np.ndarray, free: Leaves | None = None
    ) -> tuple[Any, Leaves]:
        """Of one batch, the losses and the gradient of their weighted sum."""
        at = self.free if free is None else free
        return self.compiled.gradient(at, self.fixed, batch, weights)

    def product(self, vector: Leaves) -> Leaves:
        """The Hessian of the mean loss times a vector."""

        def of(batch: PyTree) -> tuple[Any, Leaves]:
            return self.compiled.product(self.free, self.fixed, batch, vector)

        return self._mean(of, None)[1]

    def vector(self, flat: np.ndarray) -> Leaves:
        """A flat vector of the host as leaves, each where its parameter lives."""
        parts = np.split(flat, np.cumsum([x.size for x in self.free])[:-1])
        return [
            jax.device_put(part.reshape(x.shape).astype(x.dtype), x.sharding)
            for part, x in zip(parts, self.free, strict=True)
        ]

    def leaves(self, tree: PyTree) -> Leaves:
        """The leaves of a tree like the parameters that belong to those measured."""
        return self.measured.split(tree)[0]

    def tree(self, free: Leaves) -> PyTree:
        """Leaves as a tree like the parameters, zero where these aren't measured."""
        return self.measured.join(free, [jnp.zeros_like(x) for x in self.fixed])

    def _mean(
        self, of: Callable[[PyTree], tuple[Any, Leaves]], free: Leaves | None
    ) -> tuple[np.ndarray, Leaves]:
        total, found = None, []
        for batch in self.each():
            losses, part = of(batch)
            total = part if total is None else _add(total, part)
            # Waits for the batch, so that one at a time is on the devices.
            found.append(on_host(losses))
        losses = self._finite(found, free)
        assert total is not None
        _arguments.finite_derivative(self.call, bool(all_finite(total)))
        return losses, [divided(x, len(losses)) for x in total]

    def _finite(self, found: list[np.ndarray], free: Leaves | None) -> np.ndarray:
        losses = np.concatenate(found)
        return _arguments.finite(self.call, losses, perturbed=free is not None)


def count(batch: PyTree) -> int:
    """How many examples a batch has."""
    return jax.tree.leaves(batch)[0].shape[0]


def on_host(x: Any) -> np.ndarray:
    """An array as NumPy's, the whole of it, wherever its parts are."""
    if isinstance(x, Tracer):
        raise TypeError(
            "loss_fn closes over a traced value, and a measure walks over batches on the "
            "host; call it outside of jax.jit, jax.vmap and jax.grad."
        )
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        return np.asarray(multihost_utils.process_allgather(x, tiled=True))
    return np.asarray(x)


def flat(leaves: Leaves) -> np.ndarray:
    """Leaves as one vector on the host; no device holds the whole of a sharded one."""
    return np.concatenate([on_host(x).reshape(-1) for x in leaves])


@jax.jit
def _add(total: Leaves, part: Leaves) -> Leaves:
    return [t + p for t, p in zip(total, part, strict=True)]
