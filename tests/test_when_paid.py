"""Methods that take turns: only the one that runs is paid for, executed and in HLO."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import (
    QUICK,
    mean_loss,
    quick_jit,
    stacked,
    updater,
)
from test_when import METHODS
from turns import (
    WEIGHTS,
    as_tree,
    batches,
    in_float32,
    loss_fn,
    moved,
    walk,
)
from turns import float32 as float32
from turns import float64 as float64

import ksam_jax

# ------------------------------------------------- what is run when: executed, and in HLO


@pytest.mark.parametrize("way", ["eager", "jit", "scan"])
def test_only_the_method_whose_turn_it_is_runs_the_loss(way):
    """Counted while running: one forward pass in a plain step, two in one of SAM."""
    ran: list[float] = []

    def told(params: Any, batch: Any) -> Any:
        losses = loss_fn(params, batch)
        jax.debug.callback(lambda x: ran.append(shown(x)), batch["a"][0, 0])
        return losses

    def shown(x: Any) -> float:
        # Where the callback runs may know nothing of float64.
        return round(float(x), 4)

    tx = ksam_jax.join_methods(
        [METHODS["plain"](), METHODS["sam"](), METHODS["plain"]()], [2, 4]
    )
    update, params, inputs = updater(tx, told), as_tree(WEIGHTS), batches(6)

    def step(carry: Any, batch: Any) -> Any:
        params, state = carry
        updates, state = update(state, params, batch)
        return (moved(params, updates), state), None

    if way == "scan":
        run = quick_jit(functools.partial(jax.lax.scan, step))
        jax.block_until_ready(run((params, tx.init(params)), stacked(inputs)))
    else:
        update = quick_jit(update) if way == "jit" else update
        walk(update, tx.init(params), inputs)
    jax.effects_barrier()
    passes = [ran.count(shown(batch["a"][0, 0])) for batch in inputs]
    assert passes == [1, 1, 2, 2, 1, 1]


def test_mapped_over_counts_all_of_them_run_in_every_step():
    """As the docs say: what it costs to map over a state with counts of its own."""
    ran: list[int] = []

    def told(params: Any, batch: Any) -> Any:
        jax.debug.callback(lambda _: ran.append(1), batch["a"][0, 0])
        return loss_fn(params, batch)

    tx = ksam_jax.join_methods([METHODS["plain"](), METHODS["sam"]()], [2])
    params = as_tree(WEIGHTS)
    states, both = stacked([tx.init(params)] * 2), stacked([params] * 2)
    each = quick_jit(jax.vmap(updater(tx, told)))
    jax.block_until_ready(each(states, both, stacked(batches(2))))
    jax.effects_barrier()
    assert len(ran) == 2 * (1 + 2)


# A computation of HLO begins with its name, and is called by these attributes.
_HEAD = re.compile(r"^(?:ENTRY )?%(\S+) \(.*\{$")
# That of methods, whose result has counts of steps; those of sums have floats alone.
_TURNS = re.compile(r"(?:^|= )\(.*s32\[\].*\) conditional\(")
_CALLS = re.compile(
    r"(?:calls|to_apply|body|condition|branch_computations|true_computation|"
    r"false_computation)=\{?((?:%[\w.\-]+(?:, )?)+)"
)
_VALUE = re.compile(r"^\s*(?:ROOT )?%(\S+) = (.*)$")
_PRODUCT = re.compile(r"= \S+\[([\d,]*)\]\S* (dot|convolution)\(%([\w.\-]+), %([\w.\-]+)\)")
_CONTRACTED = re.compile(r"lhs_contracting_dims=\{([\d,]*)\}")


def turn(lines: Any) -> str:
    """The one conditional; where sums have theirs, the one that methods take turns by."""
    found = [line for line in lines if " conditional(" in line]
    if len(found) > 1:
        found = list(filter(_TURNS.search, found))
    (line,) = found
    return line


class Program:
    """The text of a compiled program, by its computations."""

    def __init__(self, text: str) -> None:
        self.lines: dict[str, list[str]] = {}
        self.entry = name = ""
        for line in text.splitlines():
            head = _HEAD.match(line)
            name = head[1] if head else name
            if line.startswith("ENTRY"):
                self.entry = name
            if name:
                self.lines.setdefault(name, []).append(line)
        assert self.entry

    def called(self, line: str) -> list[str]:
        groups = _CALLS.findall(line)
        return [name for group in groups for name in re.findall(r"%([\w.\-]+)", group)]

    def within(self, name: str, skip: str = " no instruction ") -> list[str]:
        """The lines of a computation and of all that it calls, but for some lines."""
        found, todo, seen = [], [name], set()
        while todo:
            here = todo.pop()
            if here in seen:
                continue
            seen.add(here)
            for line in self.lines[here]:
                if skip not in line:
                    found.append(line)
                    todo += self.called(line)
        return found

    def branches(self) -> list[list[str]]:
        """The lines that each branch of that conditional runs."""
        line = turn(self.within(self.entry))
        return [self.within(name) for name in self.called(line)]

    def outside(self) -> list[str]:
        """The lines of the program that run in any case."""
        return self.within(self.entry, skip=" conditional(")

    def predicate(self) -> tuple[set[str], set[str]]:
        """All instructions that the conditional's index is made of, and the parameters."""
        defined = {m[1]: m[2] for x in self.lines[self.entry] if (m := _VALUE.match(x))}
        conditional = turn(defined.values())
        index = re.search(r" conditional\(%([\w.\-]+)", conditional)
        assert index
        todo, seen = [index[1]], set()
        while todo:
            name = todo.pop()
            if name not in seen:
                seen.add(name)
                operands = re.search(r" [\w\-]+\((.*?)\)", defined[name])
                todo += re.findall(r"%([\w.\-]+)", operands[1]) if operands else []
        lines = {defined[name] for name in seen}
        for line in list(lines):
            for called in self.called(line):
                lines |= set(self.within(called))
        return lines, {x for x in lines if " parameter(" in x and x in defined.values()}


def products(lines: list[str]) -> list[int]:
    """The multiplications of every matrix product, sorted."""
    assert not [x for x in lines if "custom-call" in x and "matmul" in x]
    shapes = {m[1]: m[2] for x in lines if (m := _VALUE.match(x))}
    found = []
    for line in lines:
        match = _PRODUCT.search(line)
        if match:
            assert match[2] == "dot"
            left = re.search(r"\[([\d,]*)\]", shapes[match[3]])
            contracted = _CONTRACTED.search(line)
            assert left
            assert contracted
            sizes = [int(n) for n in left[1].split(",") if n]
            result = [int(n) for n in match[1].split(",") if n]
            over = [sizes[int(i)] for i in contracted[1].split(",")]
            found.append(int(np.prod(result) * np.prod(over)))
    return sorted(found)


def network(width: int = 24, n: int = 512) -> tuple[Any, Any]:
    """Weights and a batch of a network in which matrix products are nearly all there is."""
    rng = np.random.default_rng(3)
    sizes = [(16, width), (width, width), (width, 3)]
    params = [jnp.asarray(rng.normal(0.0, s[0] ** -0.5, s), jnp.float32) for s in sizes]
    x = jnp.asarray(rng.normal(0.3, 1.0, (n, 16)), jnp.float32)
    return params, {"x": x, "y": jnp.asarray(rng.integers(0, 3, n), jnp.int32)}


def network_loss(params: Any, batch: Any) -> Any:
    hidden = batch["x"]
    for w in params[:-1]:
        hidden = jnp.maximum(hidden @ w, 0)
    logits = hidden @ params[-1]
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])


BASE = optax.sgd(0.1, momentum=0.9)


def program(method: Any) -> Any:
    """A compiled training step with a method; None for SGD as anyone writes it."""
    params, batch = network()
    tx: Any = BASE if method is None else optax.chain(method, BASE)

    def step(params: Any, state: Any, batch: Any) -> Any:
        if method is None:
            gradient = jax.grad(mean_loss(network_loss))(params, batch)
            updates, state = tx.update(gradient, state, params)
        else:
            updates, state = updater(tx, network_loss)(state, params, batch)
        return optax.apply_updates(params, updates), state

    shapes = jax.eval_shape(lambda: (params, tx.init(params), batch))
    return jax.jit(step).lower(*shapes).compile(QUICK)


@functools.cache
def own_products(name: str) -> list[int]:
    makes = {
        "sgd": lambda: None,
        "plain": ksam_jax.mean_gradient,
        "sam": ksam_jax.sam,
        "k_sam": functools.partial(ksam_jax.k_sam, k=0.25),
    }
    text = Program(program(makes[name]()).as_text())
    return products(text.within(text.entry))


@in_float32
@pytest.mark.xdist_group("hlo")
def test_a_plain_step_costs_what_sgd_costs():
    counts = [program(m).cost_analysis()["flops"] for m in (None, ksam_jax.mean_gradient())]
    assert counts[0] < counts[1] < 1.01 * counts[0]
    assert own_products("plain") == own_products("sgd")


@in_float32
@pytest.mark.xdist_group("hlo")
@pytest.mark.parametrize("second", ["sam", "k_sam"])
def test_the_other_method_stands_in_a_branch_of_its_own(second):
    """Every matrix product: SGD's in the one, the method's own in the other, none outside.

    SGD's five: two that lead forward and to each weight, but for the first layer none that
    leads back to its input.
    """
    other = {"sam": ksam_jax.sam(), "k_sam": ksam_jax.k_sam(k=0.25)}[second]
    late = ksam_jax.join_methods([ksam_jax.mean_gradient(), other], [1000])
    text = Program(program(late).as_text())
    plain, sharp = map(products, text.branches())
    assert plain == own_products("sgd")
    assert sharp == own_products(second)
    assert products(text.outside()) == []
    n, width = 512, 24
    backward = [n * width * 3, n * width * width]
    forward = [n * 16 * width, n * width * width, n * width * 3]
    assert own_products("sgd") == sorted([*forward, *forward, *backward])
    expected = 2 if second == "sam" else 1 / 3 + 2 * 0.25
    assert sum(sharp) / sum(plain) == pytest.approx(expected, rel=0.06)


@in_float32
@pytest.mark.xdist_group("hlo")
def test_look_sam_runs_one_gradient_in_between():
    text = Program(program(ksam_jax.look_sam(period=5)).as_text())
    sharp, plain = map(products, text.branches())
    assert plain == own_products("sgd")
    assert sharp == own_products("sam") == sorted(2 * own_products("sgd"))
    assert products(text.outside()) == []


@in_float32
@pytest.mark.xdist_group("hlo")
def test_the_products_of_a_small_program_are_counted():
    def f(a: Any, b: Any, i: Any) -> Any:
        return jax.lax.switch(i, [lambda: a @ b, lambda: (a @ b) @ b.T @ b]) + a[:, :4]

    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in [(5, 6), (6, 4)]]
    number = jax.ShapeDtypeStruct((), jnp.int32)
    compiled: Any = jax.jit(f).lower(*shapes, number).compile(QUICK)
    text = Program(compiled.as_text())
    assert list(map(products, text.branches())) == [[120], [120, 120, 120]]
    assert products(text.outside()) == []
    _, parameters = text.predicate()
    assert len(parameters) == 1
    assert "s32[] parameter(2)" in parameters.pop()
