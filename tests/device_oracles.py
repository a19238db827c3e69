"""Naive float64 references for training on several devices: NumPy and loops, no JAX.

A method is written as its three answers, and the step of several devices as what the
words say: each device selects among its own examples, the ascent gradient is averaged or
is not, the descent gradients are averaged.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import oracles
from oracles import Batch, Method, Schedule, Step, Tree


class Answers(NamedTuple):
    """A method: its answers to the questions, on one device.

    Attributes:
      ascent: `(t, device, params, batch) -> rows`; None for a climb along the past.
      direction: `(t, params, ascent gradient) -> perturbation`.
      descent: `(t, device, params, moved params, batch, ascent rows) -> rows`.
      after: `(t, params, moved params of each device, parts, descent rows)`, if there is
        something to remember.
      mean_over: what the gradients over chosen rows are divided by.
    """

    ascent: Callable[..., list[int]] | None
    direction: Callable[[int, Tree, Tree], Tree]
    descent: Callable[..., list[int]]
    after: Callable[..., None] | None = None
    mean_over: str = "batch"


def mean(trees: Sequence[Tree]) -> Tree:
    """The mean of several trees."""
    total = trees[0]
    for tree in trees[1:]:
        total = oracles.add(total, tree)
    return oracles.scaled(total, 1 / len(trees))


def split(batch: Batch, devices: int) -> list[Batch]:
    """The devices' parts of a batch, in order."""
    xs, ys = np.split(batch.inputs, devices), np.split(batch.labels, devices)
    return [Batch(x, y) for x, y in zip(xs, ys, strict=True)]


def on_devices(answers: Answers, devices: int, sync: bool) -> Method:
    """The step of several devices."""
    past: list[Tree] = []

    def step(t: int, params: Tree, batch: Batch) -> Step:
        parts = split(batch, devices)
        rows: list[list[int]] = [[] for _ in parts]
        if answers.ascent is None:
            climbs = [past[-1] if past else oracles.scaled(params, 0.0)] * devices
        else:
            rows = [answers.ascent(t, d, params, part) for d, part in enumerate(parts)]
            climbs = [
                oracles.mean_gradient(params, part, chosen, answers.mean_over)
                for part, chosen in zip(parts, rows, strict=True)
            ]
        if sync:
            climbs = [mean(climbs)] * devices
        epsilons = [answers.direction(t, params, g) for g in climbs]
        moved = [oracles.add(params, epsilon) for epsilon in epsilons]
        chosen = [
            answers.descent(t, d, params, moved[d], part, rows[d])
            for d, part in enumerate(parts)
        ]
        descents = [
            oracles.mean_gradient(moved[d], part, chosen[d], answers.mean_over)
            for d, part in enumerate(parts)
        ]
        if answers.after is not None:
            answers.after(t, params, moved, parts, chosen)
        descent = mean(descents)
        past.append(oracles.scaled(descent, -1.0))
        size = len(parts[0].labels)
        together = [d * size + i for d, part in enumerate(chosen) for i in part]
        return Step(descent, epsilons[0], climbs[0], together)

    return step


def every(t: int, device: int, *rest: object) -> list[int]:
    """All examples of the device."""
    del t, device
    (batch,) = [x for x in rest if isinstance(x, Batch)]
    return oracles.everything(batch)


def to_radius(rho: Schedule) -> Callable[[int, Tree, Tree], Tree]:
    """Along the gradient, to length rho."""
    return lambda t, params, g: oracles.to_radius(g, rho(t))


def sam(rho: Schedule) -> Answers:
    """Foret et al. 2021."""
    return Answers(every, to_radius(rho), every)


def asam(rho: Schedule, eta: float) -> Answers:
    """Kwon et al. 2021."""

    def direction(t: int, params: Tree, g: Tree) -> Tree:
        metric = {
            name: np.abs(leaf) + eta if leaf.ndim > 1 else np.ones_like(leaf)
            for name, leaf in params.items()
        }
        once = oracles.times(metric, g)
        return oracles.scaled(oracles.times(metric, once), rho(t) / oracles.norm(once))

    return Answers(every, direction, every)


def random_sam(rho: Schedule, subsets: Sequence[Sequence[list[int]]]) -> Answers:
    """Bahri et al. 2021; `subsets[t][device]`."""
    return Answers(
        lambda t, d, *_: subsets[t][d], to_radius(rho), every, mean_over="chosen"
    )


def k_sam(rho: Schedule, k: float) -> Answers:
    """Ni et al. 2022: the same examples in both passes."""

    def hardest(t: int, device: int, params: Tree, batch: Batch) -> list[int]:
        del t, device
        losses = oracles.losses(params, batch)
        return oracles.highest(losses, oracles.count(k, len(losses)))

    return Answers(hardest, to_radius(rho), lambda t, d, p, m, batch, rows: rows)


def esam(rho: Schedule, gamma: float, masks: Sequence[Tree]) -> Answers:
    """Du et al. 2022: one mask for all devices."""

    def direction(t: int, params: Tree, g: Tree) -> Tree:
        del params
        return oracles.times(masks[t], oracles.to_radius(g, rho(t)))

    def rose(t, device, params, moved, batch, rows) -> list[int]:
        del t, device, rows
        before, after = oracles.losses(params, batch), oracles.losses(moved, batch)
        rise = [b - a for a, b in zip(before, after, strict=True)]
        return oracles.highest(rise, oracles.count(gamma, len(rise)))

    return Answers(every, direction, rose, mean_over="batch")


def f_sam(rho: Schedule, sigma: float, decay: float) -> Answers:
    """Li et al. 2024: the average is of the averaged gradient."""
    memory: list[tuple[int, Tree]] = []

    def direction(t: int, params: Tree, g: Tree) -> Tree:
        del params
        earlier = [m for step, m in memory if step < t]
        d = oracles.add(g, oracles.scaled(earlier[-1], -sigma)) if earlier else g
        if not memory or memory[-1][0] < t:  # Once a step, not once a device.
            kept = oracles.scaled(earlier[-1], decay) if earlier else None
            m = oracles.add(kept, oracles.scaled(g, 1 - decay)) if kept else g
            memory.append((t, m))
        return oracles.to_radius(d, rho(t))

    return Answers(every, direction, every)


def k_momentum_sam(rho: Schedule, k: float) -> Answers:
    """Becker et al. 2024 without decay, on the highest losses at the moved weights."""

    def hardest(t, device, params, moved, batch, rows) -> list[int]:
        del t, device, params, rows
        losses = oracles.losses(moved, batch)
        return oracles.highest(losses, oracles.count(k, len(losses)))

    return Answers(None, to_radius(rho), hardest)


def remembered_momentum_sam(
    rho: Schedule, k: float, numbers: Sequence[Sequence[int]]
) -> Answers:
    """On the highest remembered losses, which all devices remember together."""
    memory: dict[int, float] = {}

    def own(t: int, device: int, size: int) -> list[int]:
        return list(numbers[t][device * size : (device + 1) * size])

    def descent(t, device, params, moved, batch, rows) -> list[int]:
        del params, moved, rows
        size = len(batch.labels)
        how_many = oracles.count(k, size)
        return oracles.most_remembered(memory, own(t, device, size), how_many)

    def after(t, params, moved, parts, chosen) -> None:
        del params
        for d, part in enumerate(parts):
            losses = oracles.losses(moved[d], part)
            oracles.remember(memory, own(t, d, len(part.labels)), chosen[d], losses)

    return Answers(None, to_radius(rho), descent, after)


def remembered_k_sam(rho: Schedule, k: float, numbers: Sequence[Sequence[int]]) -> Answers:
    """K-SAM on the highest remembered losses; the losses are those of the climb."""
    momentum = remembered_momentum_sam(rho, k, numbers)
    assert momentum.after is not None
    after = momentum.after

    def ascent(t: int, device: int, params: Tree, batch: Batch) -> list[int]:
        return momentum.descent(t, device, params, params, batch, [])

    def remember(t, params, moved, parts, chosen) -> None:
        after(t, params, [params] * len(moved), parts, chosen)

    return Answers(ascent, to_radius(rho), lambda t, d, p, m, b, rows: rows, remember)
