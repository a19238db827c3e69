"""The recipes for policies, graphs and equations, against objectives in loops."""

import jax.numpy as jnp
import numpy as np
import pytest
from problems import cross_entropy
from recipes import (
    RHO,
    Draw,
    as_a_reader_with_more_digits,
    assert_same,
    by_hand,
    check,
    handed_on,
    page,
)

import ksam_jax


@pytest.fixture(autouse=True)
def more_digits():
    with as_a_reader_with_more_digits():
        yield


def minibatch():
    draw = Draw(6)
    params = {"policy": draw(4, 3), "value": draw(4)}
    batch = {"seen": draw(8, 4), "action": draw.labels(3, 8), "return": draw(8)}
    batch |= {"advantage": draw(8) - 0.3, "old_log_probability": -jnp.exp(draw(8))}

    advantage = np.asarray(batch["advantage"])

    def numbers(params):
        found = []
        for i in range(8):
            odds = jnp.exp(batch["seen"][i] @ params["policy"])
            chance = odds / odds.sum()
            ratio = chance[batch["action"][i]] / jnp.exp(batch["old_log_probability"][i])
            gain = ratio * advantage[i]
            limit = (1.2 if advantage[i] > 0 else 0.8) * advantage[i]
            # Above the limit the gain is the clipped one, which has no gradient.
            gain = jnp.where(gain > limit, limit, gain)
            error = batch["seen"][i] @ params["value"] - batch["return"][i]
            found.append(-gain + 0.5 * error**2 + 0.01 * (chance * jnp.log(chance)).sum())
        return found

    return params, batch, numbers


def test_ppo_is_the_clipped_objective_in_both_passes():
    params, batch, numbers = minibatch()
    loss_fn = ksam_jax.per_example(page("problems")["ppo_loss"])
    check(loss_fn, params, batch, numbers, k=3)


def test_ppo_on_the_most_surprising_needs_no_pass_to_choose():
    params, batch, numbers = minibatch()
    loss_fn = ksam_jax.per_example(page("problems")["ppo_loss"])
    surprising = page("problems")["most_surprising"](3)
    climb = ksam_jax.scale_to_radius(RHO)
    tx = ksam_jax.sharpness_aware(climb, ascent=surprising, descent=surprising)
    rows = np.argsort(-np.abs(np.asarray(batch["advantage"])))[:3]
    wanted = by_hand(lambda p: sum(numbers(p)[i] for i in rows) / 3, params)
    assert_same(handed_on(tx, loss_fn, params, batch), wanted)
    assert surprising.reads == frozenset()
    signs = np.sign(np.asarray(batch["advantage"]))[rows]
    assert set(signs) == {-1, 1}


def test_graphs_of_different_sizes():
    draw, rng = Draw(7), np.random.default_rng(7)
    sizes = [(2, 1), (4, 5), (3, 3)]  # nodes and edges
    params = {"self": draw(3, 4), "sent": draw(3, 4), "out": draw(4, 2)}
    edges = [rng.integers(0, nodes, (number, 2)) for nodes, number in sizes]
    batch = {
        "nodes": draw(3, 4, 3),
        "senders": jnp.asarray([np.resize(each[:, 0], 5) for each in edges]),
        "receivers": jnp.asarray([np.resize(each[:, 1], 5) for each in edges]),
        "has_edge": jnp.asarray([[i < n for i in range(5)] for _, n in sizes], float),
        "has_node": jnp.asarray([[i < n for i in range(4)] for n, _ in sizes], float),
        "label": jnp.array([0, 1, 1]),
    }

    def numbers(params):
        found = []
        for i, (count, _) in enumerate(sizes):
            read = jnp.zeros(4)
            for node in range(count):
                come = [batch["nodes"][i, s] for s, r in edges[i] if r == node]
                total = (
                    batch["nodes"][i, node] @ params["self"]
                    + sum(come, jnp.zeros(3)) @ params["sent"]
                )
                read += jnp.tanh(total)
            found.append(cross_entropy(read @ params["out"], batch["label"][i]))
        return found

    check(ksam_jax.per_example(page("problems")["graph_loss"]), params, batch, numbers)


def test_nodes_of_one_graph():
    draw = Draw(8)
    params = {"self": draw(3, 4), "sent": draw(3, 4), "out": draw(4, 2)}
    edges = [(0, 1), (2, 1), (3, 0), (1, 3), (0, 4)]
    senders, receivers = (jnp.asarray(each) for each in zip(*edges, strict=True))
    graph = {"nodes": draw(5, 3), "senders": senders, "receivers": receivers}
    batch = {"node": jnp.array([1, 4, 0, 2]), "label": jnp.array([1, 0, 1, 1])}

    def numbers(params):
        found = []
        for node, label in ((1, 1), (4, 0), (0, 1), (2, 1)):
            come = [graph["nodes"][s] for s, r in edges if r == node]
            total = (
                graph["nodes"][node] @ params["self"]
                + sum(come, jnp.zeros(3)) @ params["sent"]
            )
            found.append(cross_entropy(jnp.tanh(total) @ params["out"], label))
        return found

    check(page("problems")["losses_in"](graph), params, batch, numbers)


@pytest.mark.parametrize("keep", ["auto", "nothing"])
def test_points_of_a_differential_equation(keep):
    draw = Draw(9)
    params = {"in": draw(5), "shift": draw(5), "out": draw(5)}
    edge = [False, True, False, False, True, False]
    batch = {"x": draw(6), "f": draw(6), "u": draw(6), "on_boundary": jnp.asarray(edge)}

    def numbers(params):
        found = []
        for i in range(6):
            t = jnp.tanh(batch["x"][i] * params["in"] + params["shift"])
            # The second derivative of tanh is -2 tanh (1 - tanh^2).
            second = (-2 * t * (1 - t**2) * params["in"] ** 2) @ params["out"]
            outside = 10 * (t @ params["out"] - batch["u"][i]) ** 2
            found.append(outside if edge[i] else (second - batch["f"][i]) ** 2)
        return found

    loss_fn = ksam_jax.per_example(page("problems")["point_loss"], keep=keep)
    check(loss_fn, params, batch, numbers)
