"""The keyword arguments that all methods share: their names, types and text, once."""

from collections.abc import Callable, Collection
from typing import Any, TypedDict, overload

import optax

from ..checks import _kinds
from ..checks._words import shown
from ..step._method import Execution, Method
from ..step._transformation import transformation
from ._signature import Factory, spelled_out

# Why some methods need a synchronized climb.
REMEMBERS = (
    "the moving average is of the averaged gradient, and every device would remember "
    "another one"
)
COMPARES = "combine is given the two gradients as they are averaged over the devices"


class Common(TypedDict, total=False):
    """Keyword arguments that all methods share: how their step is carried out.

    Attributes:
      mask: which parameters are perturbed: a pytree of bools (or a prefix of one) or a
        function of params, as in `optax.masked`; None for all. Norms run over the
        perturbed ones only.
      perturbed_dtype: dtype of the perturbed weights, None to keep the parameters' own.
        In bfloat16 a small perturbation rounds away: of one of radius 0.05 on 1e7 weights
        of standard deviation 0.02 the applied one keeps a cosine of 0.57 to the intended
        one. Pass jnp.float32 there. A model that itself casts its parameters to bfloat16
        rounds all the same.
      axis_name: for `jax.shard_map` and `jax.vmap(axis_name=...)`: the mapped axis, or a
        tuple of axes, over which devices run this step, each on its own part of the
        batch; None on one device. A device selects among its own examples, so that none
        moves; a fraction or a number of examples is of that part. Averaged over the
        devices are the gradients, `info` and, of a batch-level loss, the floating-point
        leaves of aux (BatchNorm statistics); aux of `per_example` and what is no float
        stays each device's own. The updates that come out are the same on all devices:
        average nothing again.
      sync_ascent: True averages the ascent gradient over devices or groups before the
        climb: one all-reduce more than SGD has. False lets each climb with its own
        gradient, as the SAM paper's m-sharpness does, with SGD's communication; `info` is
        then the mean over the devices. Not for perturbations that remember gradients, nor
        with `combine`. A climb that has no pass costs no collective either way. Masks of
        `random_mask` are the same on all devices, random subsets differ.
      groups: equal parts of the batch, in order, each selected from by itself as a
        device's examples are; None for one. Under plain `jax.jit` with a sharded batch make
        it a multiple of the number of shards, and each device works on its own examples.
        With `sync_ascent=False` each group climbs for itself: on one device what as many
        devices would do, at the memory of a set of weights per group; loss_fn then sees
        one group at a time. With axis_name, groups of each device.
      num_microbatches: how many parts the batch is run in, one after the other, to save
        memory; None for one. The result is the joined batch's, for losses that don't
        couple examples: selection still ranks the whole batch. `keep` doesn't apply, and
        aux of a batch-level loss is averaged.
      info: what a step says of itself. "all"; or "losses", without the two norms and the
        cosine, which are unknown then: weights are read less often, and the ascent gradient
        needn't be kept until the descent's is there. The updates are the same.
    """

    mask: Any
    perturbed_dtype: Any
    axis_name: Any
    sync_ascent: bool
    groups: int | None
    num_microbatches: int | None
    info: str


@overload
def with_common(factory: Factory) -> Factory:
    """As a decorator: of a method without masks of its own."""


@overload
def with_common(*, masks: Collection[str]) -> Callable[[Factory], Factory]:
    """Makes the decorator: of a method with masks of its own."""


def with_common(
    factory: Factory | None = None, *, masks: Collection[str] = ()
) -> Factory | Callable[[Factory], Factory]:
    """Spells `**common` out in what `help` and editors show of a method.

    Args:
      factory: the method; None makes the decorator.
      masks: names of its own arguments that may be functions of params.

    Returns:
      The method, or what decorates it.
    """

    def spelled(method: Factory) -> Factory:
        return spelled_out(method, Common, Execution()._asdict(), masks)

    return spelled if factory is None else spelled(factory)


def built(
    method: Method, common: Common, needs_sync: str = ""
) -> optax.GradientTransformationExtraArgs:
    """The transformation of a method with the shared arguments that it was given.

    `needs_sync` says why `sync_ascent` can't be False, if it can't.
    """
    run = execution(method.call, common)
    if needs_sync:
        _kinds.synchronized(method.call, run.sync_ascent, needs_sync)
    return transformation(method, run.checked(method.call))


def execution(call: str, common: Common) -> Execution:
    """The shared arguments, as they were given."""
    unknown = common.keys() - Common.__annotations__.keys()
    if unknown:
        names = ", ".join(Common.__annotations__)
        raise TypeError(
            f"{call}({min(unknown)}=...): there is no such argument; besides those of its "
            f"own, {call} takes {names}."
        )
    return Execution(**common)


def is_identity(combine: optax.GradientTransformation) -> bool:
    """Whether it is `optax.identity()`, of which every call makes another one."""
    identity = optax.identity().update
    return getattr(combine.update, "__code__", None) is getattr(identity, "__code__", 0)


def check_transformation(call: str, name: str, part: Any, such_as: str) -> None:
    """Checks that a part is a transformation of Optax's kind."""
    if not isinstance(part, optax.GradientTransformation):
        raise TypeError(
            f"{call}({name}={shown(part)}): {name} must be an "
            f"optax.GradientTransformation such as {such_as}."
        )
