"""Naive float64 references for the methods: NumPy and loops, no JAX.

Written from the papers' equations, one function per method, for a two-layer tanh
network whose gradient is written out by hand. Nothing here is fast or clever: it
is what the library is compared with. The random methods take the draws (masks,
chosen examples) as input.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Tree = dict[str, Array]
Schedule = Callable[[int], float]


class Batch(NamedTuple):
    """N examples: inputs (N, features) and integer labels (N,)."""

    inputs: Array
    labels: NDArray[np.int32]


class Step(NamedTuple):
    """What one method does in one step."""

    gradient: Tree
    """What the optimizer gets: the descent gradient, or what is made of it."""
    perturbation: Tree
    """The perturbation that was added to the weights."""
    ascent: Tree
    """The gradient that the perturbation was made from."""
    descent_examples: list[int]
    """Which examples the descent gradient is taken over."""
    descent: Tree | None = None
    """The gradient at the perturbed weights, where `gradient` is made of it."""


Method = Callable[[int, Tree, Batch], Step]


# ---------------------------------------------------------------- the network


def example_loss(params: Tree, inputs: Array, label: int) -> float:
    """Cross-entropy of softmax(scale * (tanh(x W1 + b1) W2 + b2))."""
    hidden = np.tanh(inputs @ params["w1"] + params["b1"])
    logits = params["scale"] * (hidden @ params["w2"] + params["b2"])
    shifted = logits - logits.max()
    return float(np.log(np.exp(shifted).sum()) - shifted[label])


def example_gradient(params: Tree, inputs: Array, label: int) -> Tree:
    """The gradient of `example_loss`, by hand."""
    hidden = np.tanh(inputs @ params["w1"] + params["b1"])
    unscaled = hidden @ params["w2"] + params["b2"]
    logits = params["scale"] * unscaled
    odds = np.exp(logits - logits.max())
    d_logits = odds / odds.sum()
    d_logits[label] -= 1.0
    d_unscaled = params["scale"] * d_logits
    d_hidden: Array = (params["w2"] @ d_unscaled) * (1.0 - hidden**2)
    return {
        "w1": np.outer(inputs, d_hidden),
        "b1": d_hidden,
        "w2": np.outer(hidden, d_unscaled),
        "b2": d_unscaled,
        "scale": np.asarray((d_logits * unscaled).sum(), np.float64),
    }


def losses(params: Tree, batch: Batch) -> list[float]:
    """One loss per example."""
    return [example_loss(params, x, int(y)) for x, y in zip(*batch, strict=True)]


def mean_loss(params: Tree, batch: Batch, examples: Iterable[int]) -> float:
    """The mean loss over some of the examples."""
    every = losses(params, batch)
    chosen = [every[i] for i in examples]
    return sum(chosen) / len(chosen)


def mean_gradient(
    params: Tree, batch: Batch, examples: Sequence[int], mean_over: str = "chosen"
) -> Tree:
    """The gradient of the mean loss over some of the examples.

    With `mean_over="batch"` their sum is divided by the batch's N, as if the others had
    the loss 0.
    """
    divisor = {"chosen": len(examples), "batch": len(batch.labels)}[mean_over]
    total = {name: np.zeros_like(leaf) for name, leaf in params.items()}
    for i in examples:
        gradient = example_gradient(params, batch.inputs[i], int(batch.labels[i]))
        total = add(total, gradient)
    return scaled(total, 1.0 / divisor)


# ---------------------------------------------------------------- small parts


def add(a: Tree, b: Tree) -> Tree:
    """a + b, leaf by leaf."""
    return {name: a[name] + b[name] for name in a}


def scaled(a: Tree, factor: float) -> Tree:
    """factor * a, leaf by leaf."""
    return {name: factor * leaf for name, leaf in a.items()}


def times(a: Tree, b: Tree) -> Tree:
    """a * b, elementwise."""
    return {name: a[name] * b[name] for name in a}


def norm(a: Tree) -> float:
    """The Euclidean norm over all entries of all leaves."""
    return math.sqrt(sum(float((leaf**2).sum()) for leaf in a.values()))


def dot(a: Tree, b: Tree) -> float:
    """The inner product over all entries of all leaves."""
    return sum(float((a[name] * b[name]).sum()) for name in a)


def cosine(a: Tree, b: Tree) -> float:
    """The cosine of the angle between two trees."""
    return dot(a, b) / (norm(a) * norm(b))


def orthogonal(a: Tree, to: Tree) -> Tree:
    """What is left of a tree without its part along another."""
    return add(a, scaled(to, -dot(a, to) / norm(to) ** 2))


def to_radius(a: Tree, rho: float) -> Tree:
    """A tree scaled to length rho; zero stays zero."""
    length = norm(a)
    return scaled(a, rho / length if length > 0.0 else 0.0)


def to_adaptive_radius(a: Tree, rho: float, params: Tree, eta: float) -> Tree:
    """rho T^2 a / ||T a||, T = |w| + eta, or 1 for vectors and scalars."""
    metric = {
        name: np.abs(leaf) + eta if leaf.ndim > 1 else np.ones_like(leaf)
        for name, leaf in params.items()
    }
    length = norm(times(metric, a))
    return scaled(times(metric, times(metric, a)), rho / length if length > 0.0 else 0.0)


def count(share: float, n: int) -> int:
    """How many of n examples: an int is a count, a float a fraction, half up."""
    if isinstance(share, int):
        return share
    return max(1, math.floor(share * n + 0.5))


def skip_count(share: float, n: int) -> int:
    """How many of n examples to skip: as `count`, but it may be none."""
    return share if isinstance(share, int) else math.floor(share * n + 0.5)


def highest(values: Sequence[float], how_many: int, skip: int = 0) -> list[int]:
    """The places of the highest values below the `skip` highest; NaN and inf last."""

    def rank(i: int) -> tuple[bool, float, int]:
        broken = not math.isfinite(values[i])
        return (broken, 0.0 if broken else -values[i], i)

    return sorted(range(len(values)), key=rank)[skip : skip + how_many]


def most_remembered(
    memory: dict[int, float], numbers: Sequence[int], how_many: int
) -> list[int]:
    """The places of the examples never used, then of the highest remembered losses."""

    def rank(i: int) -> tuple[int, float, int]:
        if numbers[i] not in memory:
            return (0, 0.0, i)
        loss = memory[numbers[i]]
        return (1, -loss, i) if math.isfinite(loss) else (2, 0.0, i)

    return sorted(range(len(numbers)), key=rank)[:how_many]


def remember(
    memory: dict[int, float],
    numbers: Sequence[int],
    used: Iterable[int],
    losses: Sequence[float],
) -> None:
    """Writes the losses of the used examples down, in the memory's float32."""
    for i in used:
        memory[numbers[i]] = float(np.float32(losses[i]))


def everything(batch: Batch) -> list[int]:
    """All examples."""
    return list(range(len(batch.labels)))


# ---------------------------------------------------------------- the methods


def plain() -> Method:
    """The gradient, unperturbed."""

    def step(t: int, params: Tree, batch: Batch) -> Step:
        del t
        examples = everything(batch)
        gradient = mean_gradient(params, batch, examples)
        return Step(gradient, scaled(gradient, 0.0), gradient, examples)

    return step


def sam(rho: Schedule) -> Method:
    """Foret et al. 2021: eps = rho g / ||g||."""

    def step(t: int, params: Tree, batch: Batch) -> Step:
        examples = everything(batch)
        g = mean_gradient(params, batch, examples)
        eps = to_radius(g, rho(t))
        descent = mean_gradient(add(params, eps), batch, examples)
        return Step(descent, eps, g, examples)

    return step


def asam(rho: Schedule, eta: float) -> Method:
    """Kwon et al. 2021: eps = rho T^2 g / ||T g||, T = |w| + eta or the identity."""

    def step(t: int, params: Tree, batch: Batch) -> Step:
        examples = everything(batch)
        g = mean_gradient(params, batch, examples)
        eps = to_adaptive_radius(g, rho(t), params, eta)
        descent = mean_gradient(add(params, eps), batch, examples)
        return Step(descent, eps, g, examples)

    return step


def le_sam(sigma: Schedule, max_rho: float) -> Method:
    """Wang et al. 2026, as in their code: rho = min(sigma / ||g||, max_rho)."""

    def step(t: int, params: Tree, batch: Batch) -> Step:
        examples = everything(batch)
        g = mean_gradient(params, batch, examples)
        eps = to_radius(g, min(sigma(t) / norm(g), max_rho))
        descent = mean_gradient(add(params, eps), batch, examples)
        return Step(descent, eps, g, examples)

    return step


def random_sam(rho: Schedule, subsets: Sequence[Sequence[int]]) -> Method:
    """Bahri et al. 2021: climb on a random subset, descend on everything."""

    def step(t: int, params: Tree, batch: Batch) -> Step:
        g = mean_gradient(params, batch, subsets[t])
        eps = to_radius(g, rho(t))
        examples = everything(batch)
        descent = mean_gradient(add(params, eps), batch, examples)
        return Step(descent, eps, g, examples)

    return step


def k_sam(rho: Schedule, k: float, skip: float = 0, mean_over: str = "batch") -> Method:
    """Ni et al. 2022: the k highest losses give both gradients.

    `skip` and `mean_over` are ours.
    """

    def step(t: int, params: Tree, batch: Batch) -> Step:
        n = len(batch.labels)
        examples = highest(losses(params, batch), count(k, n), skip_count(skip, n))
        g = mean_gradient(params, batch, examples, mean_over)
        eps = to_radius(g, rho(t))
        descent = mean_gradient(add(params, eps), batch, examples, mean_over)
        return Step(descent, eps, g, examples)

    return step


def esam(
    rho: Schedule, gamma: float, masks: Sequence[Tree], mean_over: str = "batch"
) -> Method:
    """Du et al. 2022, as printed: mask the scaled gradient, coordinate by coordinate.

    Each entry of a mask is 0 or 1 / beta. `mean_over` is ours, and of the descent.
    """

    def perturbation(t: int, g: Tree) -> Tree:
        return times(masks[t], to_radius(g, rho(t)))

    return _esam(perturbation, gamma, mean_over)


def esam_by_tensor(
    rho: Schedule,
    gamma: float,
    beta: float,
    masks: Sequence[Tree],
    mean_over: str = "batch",
) -> Method:
    """Du et al. 2022, as in their code: drop whole tensors, then radius rho / beta."""

    def perturbation(t: int, g: Tree) -> Tree:
        kept = {name: g[name] * (masks[t][name] > 0.0) for name in g}
        return to_radius(kept, rho(t) / beta)

    return _esam(perturbation, gamma, mean_over)


def _esam(
    perturbation: Callable[[int, Tree], Tree], gamma: float, mean_over: str
) -> Method:
    def step(t: int, params: Tree, batch: Batch) -> Step:
        g = mean_gradient(params, batch, everything(batch))
        eps = perturbation(t, g)
        clean, perturbed = losses(params, batch), losses(add(params, eps), batch)
        rise = [after - before for before, after in zip(clean, perturbed, strict=True)]
        examples = highest(rise, count(gamma, len(batch.labels)))
        descent = mean_gradient(add(params, eps), batch, examples, mean_over)
        return Step(descent, eps, g, examples)

    return step


def f_sam(
    rho: Schedule, sigma: float, decay: float, k: float = 1.0, mean_over: str = "batch"
) -> Method:
    """Li et al. 2024, as in their code; `k` and `mean_over` put it on k_sam's examples.

    d_t = g_t - sigma m_{t-1}, then m_t = decay m_{t-1} + (1 - decay) g_t; step 0
    is plain SAM and starts m at g_0.
    """
    memory: list[Tree] = []

    def step(t: int, params: Tree, batch: Batch) -> Step:
        examples = highest(losses(params, batch), count(k, len(batch.labels)))
        g = mean_gradient(params, batch, examples, mean_over)
        if memory:
            d = add(g, scaled(memory[-1], -sigma))
            memory.append(add(scaled(memory[-1], decay), scaled(g, 1.0 - decay)))
        else:
            d = g
            memory.append(g)
        eps = to_radius(d, rho(t))
        descent = mean_gradient(add(params, eps), batch, examples, mean_over)
        return Step(descent, eps, g, examples)

    return step


def vasso(rho: Schedule, theta: float) -> Method:
    """Li and Giannakis 2023: eps = rho d / ||d||, d the average of the clean gradients.

    d_t = (1 - theta) d_{t-1} + theta g_t; as in their code d_0 = g_0.
    """
    past: list[Tree] = []

    def step(t: int, params: Tree, batch: Batch) -> Step:
        examples = everything(batch)
        g = mean_gradient(params, batch, examples)
        d = add(scaled(past[-1], 1.0 - theta), scaled(g, theta)) if past else g
        past.append(d)
        eps = to_radius(d, rho(t))
        descent = mean_gradient(add(params, eps), batch, examples)
        return Step(descent, eps, g, examples)

    return step


def gsam(rho: Schedule, alpha: float) -> Method:
    """Zhuang et al. 2022: u = g_p - alpha (g - <g, g_p> / ||g_p||^2 g_p)."""

    def step(t: int, params: Tree, batch: Batch) -> Step:
        examples = everything(batch)
        g = mean_gradient(params, batch, examples)
        eps = to_radius(g, rho(t))
        g_p = mean_gradient(add(params, eps), batch, examples)
        u = add(g_p, scaled(orthogonal(g, g_p), -alpha))
        return Step(u, eps, g, examples, g_p)

    return step


def look_sam(rho: Schedule, alpha: float, period: int) -> Method:
    """Liu et al. 2022: SAM in every `period`-th step, a part of it again in the others.

    In a SAM step u = g_s, and g_v = g_s - <g_s, g> / ||g||^2 g is kept; in the others
    u = g + alpha ||g|| / ||g_v|| g_v. `rho` goes by the SAM steps alone.
    """
    kept: list[Tree] = []

    def step(t: int, params: Tree, batch: Batch) -> Step:
        examples = everything(batch)
        g = mean_gradient(params, batch, examples)
        if t % period == 0:
            eps = to_radius(g, rho(t // period))
            g_s = mean_gradient(add(params, eps), batch, examples)
            kept.append(orthogonal(g_s, g))
            return Step(g_s, eps, g, examples)
        u = add(g, to_radius(kept[-1], alpha * norm(g)))
        return Step(u, scaled(g, 0.0), g, examples, g)

    return step


def momentum_sam(
    rho: Schedule,
    decay: float,
    k: float = 1.0,
    skip: float = 0,
    mean_over: str = "batch",
) -> Method:
    """Becker et al. 2024: eps = -rho m / ||m||, m the average of past gradients.

    m_t = decay m_{t-1} + (1 - decay) u_t, from zero. `k`, `skip` and `mean_over` are ours:
    u is then taken over the highest losses at the perturbed weights.
    """
    past: list[Tree] = []

    def step(t: int, params: Tree, batch: Batch) -> Step:
        n = len(batch.labels)
        m = past[-1] if past else scaled(params, 0.0)
        eps = to_radius(scaled(m, -1.0), rho(t))
        moved = add(params, eps)
        examples = highest(losses(moved, batch), count(k, n), skip_count(skip, n))
        u = mean_gradient(moved, batch, examples, mean_over)
        past.append(add(scaled(m, decay), scaled(u, 1.0 - decay)))
        return Step(u, eps, scaled(m, -1.0), examples)

    return step


def adaptive_momentum_sam(rho: Schedule, eta: float, decay: float) -> Method:
    """Becker et al. 2024 with Kwon et al.'s metric: eps = rho T^2 d / ||T d||, d = -m."""
    past: list[Tree] = []

    def step(t: int, params: Tree, batch: Batch) -> Step:
        examples = everything(batch)
        m = past[-1] if past else scaled(params, 0.0)
        d = scaled(m, -1.0)
        eps = to_adaptive_radius(d, rho(t), params, eta)
        u = mean_gradient(add(params, eps), batch, examples)
        past.append(add(scaled(m, decay), scaled(u, 1.0 - decay)))
        return Step(u, eps, d, examples)

    return step


def remembered_k_sam(rho: Schedule, k: float, numbers: Sequence[Sequence[int]]) -> Method:
    """K-SAM on the examples whose loss was highest when they were last used.

    `numbers` has the number of each example of each batch.
    """
    memory: dict[int, float] = {}

    def step(t: int, params: Tree, batch: Batch) -> Step:
        examples = most_remembered(memory, numbers[t], count(k, len(batch.labels)))
        g = mean_gradient(params, batch, examples, "batch")
        remember(memory, numbers[t], examples, losses(params, batch))
        eps = to_radius(g, rho(t))
        descent = mean_gradient(add(params, eps), batch, examples, "batch")
        return Step(descent, eps, g, examples)

    return step


def remembered_momentum_sam(
    rho: Schedule,
    decay: float,
    k: float,
    numbers: Sequence[Sequence[int]],
) -> Method:
    """`momentum_sam` on the examples whose loss was highest when they were last used."""
    memory: dict[int, float] = {}
    past: list[Tree] = []

    def step(t: int, params: Tree, batch: Batch) -> Step:
        m = past[-1] if past else scaled(params, 0.0)
        eps = to_radius(scaled(m, -1.0), rho(t))
        moved = add(params, eps)
        examples = most_remembered(memory, numbers[t], count(k, len(batch.labels)))
        u = mean_gradient(moved, batch, examples, "batch")
        remember(memory, numbers[t], examples, losses(moved, batch))
        past.append(add(scaled(m, decay), scaled(u, 1.0 - decay)))
        return Step(u, eps, scaled(m, -1.0), examples)

    return step


# ---------------------------------------------------------------- several methods


def joined(methods: Sequence[Method], boundaries: Sequence[int]) -> Method:
    """One method after another: from step boundaries[i] on methods[i + 1] runs."""
    return _in_turn(methods, lambda t: sum(b <= t for b in boundaries))


def every(period: int, method: Method, otherwise: Method) -> Method:
    """A method in steps 0, period, 2 period and so on, another one in the others."""
    return _in_turn([method, otherwise], lambda t: 0 if t % period == 0 else 1)


def _in_turn(methods: Sequence[Method], turn: Callable[[int], int]) -> Method:
    """Method number turn(t) in step t; each counts the steps in which it ran."""
    ran = [0] * len(methods)

    def step(t: int, params: Tree, batch: Batch) -> Step:
        number = turn(t)
        found = methods[number](ran[number], params, batch)
        ran[number] += 1
        return found

    return step


# ---------------------------------------------------------------- training


class Run(NamedTuple):
    """A whole training run."""

    params: Tree
    steps: list[Step]
    loss: list[float]
    """The mean clean loss over the whole batch, before each step."""
    perturbed_loss: list[float]
    """The same at the perturbed weights."""
    sharpness: list[float]
    """Perturbed minus clean mean loss over each step's descent examples."""
    cosine: list[float]
    """Between clean and perturbed gradient over each step's descent examples."""


def train(
    method: Method,
    params: Tree,
    batches: Sequence[Batch],
    learning_rate: float,
    momentum: float,
) -> Run:
    """SGD with momentum around a method: v = momentum v + g, w = w - lr v."""
    velocity = {name: np.zeros_like(leaf) for name, leaf in params.items()}
    run = Run(params, [], [], [], [], [])
    for t, batch in enumerate(batches):
        step = method(t, params, batch)
        moved = add(params, step.perturbation)
        run.steps.append(step)
        run.loss.append(mean_loss(params, batch, everything(batch)))
        run.perturbed_loss.append(mean_loss(moved, batch, everything(batch)))
        run.sharpness.append(
            mean_loss(moved, batch, step.descent_examples)
            - mean_loss(params, batch, step.descent_examples)
        )
        clean = mean_gradient(params, batch, step.descent_examples)
        perturbed = step.gradient if step.descent is None else step.descent
        run.cosine.append(cosine(clean, perturbed))
        velocity = add(scaled(velocity, momentum), step.gradient)
        params = add(params, scaled(velocity, -learning_rate))
    return run._replace(params=params)
