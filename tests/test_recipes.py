"""The recipes for losses, against the objectives that they are for, written out in loops.

The objectives know no padding, no masks and no batch: lists of what is there.
"""

import jax
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
    highest,
    page,
)

import ksam_jax

LENGTHS = (3, 1, 5, 2, 4)


@pytest.fixture(autouse=True)
def more_digits():
    with as_a_reader_with_more_digits():
        yield


def sequences():
    draw = Draw(0)
    params = {"embed": draw(7, 3), "out": draw(3, 6)}
    batch = {
        "tokens": draw.labels(7, 5, max(LENGTHS)),
        "next": draw.labels(6, 5, max(LENGTHS)),
        "mask": jnp.asarray([[t < n for t in range(max(LENGTHS))] for n in LENGTHS], float),
    }

    def of_tokens(params):
        """The losses of the tokens that there are, a list for each sequence."""
        return [
            [
                cross_entropy(params["embed"][token] @ params["out"], following)
                for token, following in zip(
                    batch["tokens"][i], batch["next"][i], strict=True
                )
            ][:n]
            for i, n in enumerate(LENGTHS)
        ]

    return params, batch, of_tokens


def test_sequences_of_which_each_weighs_the_same():
    params, batch, of_tokens = sequences()
    loss_fn = ksam_jax.per_example(page("losses")["sequence_loss"])
    check(loss_fn, params, batch, lambda p: [sum(s) / len(s) for s in of_tokens(p)])


def test_padding_has_no_part_in_it_and_an_empty_sequence_is_zero():
    params, batch, _ = sequences()
    loss = page("losses")["sequence_loss"]
    rows = [jax.tree.map(lambda x: x[0], batch)] * 2
    rows[1] = {**rows[1], "tokens": rows[1]["tokens"].at[3:].set(0)}
    assert_same(*(jax.grad(loss)(params, row) for row in rows))
    empty = {**rows[0], "mask": jnp.zeros(max(LENGTHS))}
    value, gradient = jax.value_and_grad(loss)(params, empty)
    assert value == 0
    assert_same(gradient, jax.tree.map(jnp.zeros_like, params))


@pytest.mark.parametrize("num_microbatches", [1, 5])
def test_a_mean_over_all_tokens(num_microbatches):
    params, batch, of_tokens = sequences()
    loss_fn = ksam_jax.per_example(page("losses")["share_of_all_tokens"])
    scaled = page("losses")["with_scale"](batch)

    def mean(params):
        losses = [loss for sequence in of_tokens(params) for loss in sequence]
        return sum(losses) / 15

    sam = ksam_jax.sam(rho=RHO, num_microbatches=num_microbatches)
    assert_same(handed_on(sam, loss_fn, params, scaled), by_hand(mean, params))
    check(loss_fn, params, scaled, lambda p: [sum(s) * 5 / 15 for s in of_tokens(p)])


def test_the_hardest_tokens_of_each_sequence():
    params, batch, of_tokens = sequences()
    loss_fn = ksam_jax.per_example(page("losses")["hardest_tokens_loss"])

    def numbers(params):
        return [jnp.mean(jnp.sort(jnp.stack(s))[-2:]) for s in of_tokens(params)]

    check(loss_fn, params, batch, numbers)


def images():
    draw = Draw(1)
    labels = np.array(draw.labels(3, 4, 2, 3))
    labels[0, 0], labels[1], labels[2, 1, 2] = 255, 255, 255  # of the second: none
    inside = jnp.asarray(labels == 1, float)
    batch = {"image": draw(4, 2, 3, 5), "label": jnp.asarray(labels), "inside": inside}
    return {"pixel": draw(5, 3)}, batch


def test_segmentation_is_a_mean_over_the_pixels_that_have_a_label():
    params, batch = images()

    def numbers(params):
        found = []
        for image, label in zip(batch["image"], np.asarray(batch["label"]), strict=True):
            places = np.argwhere(label != 255)
            losses = [
                cross_entropy(image[r, c] @ params["pixel"], label[r, c]) for r, c in places
            ]
            found.append(
                sum(losses) / len(losses) if losses else 0.0 * params["pixel"][0, 0]
            )
        return found

    loss_fn = ksam_jax.per_example(page("losses")["segmentation_loss"])
    check(loss_fn, params, batch, numbers)


def test_dice_of_each_image_and_of_the_whole_batch():
    params, batch = images()

    def dice(image, inside, params):
        chance = 1 / (1 + jnp.exp(-(image.reshape(-1, 5) @ params["pixel"][:, 0])))
        both = chance @ inside.reshape(-1)
        return 1 - (2 * both + 1) / (chance.sum() + inside.sum() + 1)

    def numbers(params):
        return [
            dice(*row, params) for row in zip(batch["image"], batch["inside"], strict=True)
        ]

    check(ksam_jax.per_example(page("losses")["dice_loss"]), params, batch, numbers)

    def for_every_row(params, batch):
        return jnp.full(4, page("losses")["dice_loss"](params, batch))

    found = handed_on(ksam_jax.sam(rho=RHO), for_every_row, params, batch)
    assert_same(found, by_hand(lambda p: dice(batch["image"], batch["inside"], p), params))


def test_the_sum_of_tasks_of_which_examples_lack_some():
    draw = Draw(2)
    params = {"trunk": draw(3, 4), "class": draw(4, 3), "depth": draw(4)}
    has = {"class": [1, 1, 0, 1, 0], "depth": [0, 1, 1, 0, 0]}
    batch = {"x": draw(5, 3), "class": draw.labels(3, 5), "depth": draw(5)}
    batch |= {f"has_{task}": jnp.asarray(rows, float) for task, rows in has.items()}

    def numbers(params):
        found = []
        for i in range(5):
            hidden, number = (
                jnp.tanh(batch["x"][i] @ params["trunk"]),
                0.0 * params["depth"][0],
            )
            if has["class"][i]:
                loss = cross_entropy(hidden @ params["class"], batch["class"][i])
                number += 1.0 * loss * 5 / 3
            if has["depth"][i]:
                number += 0.5 * (hidden @ params["depth"] - batch["depth"][i]) ** 2 * 5 / 2
            found.append(number)
        return found

    loss_fn = ksam_jax.per_example(page("losses")["sum_of_tasks"])
    check(loss_fn, params, page("losses")["with_task_scales"](batch), numbers)


def test_mixed_rows_rank_by_what_is_left_to_learn():
    draw = Draw(3)
    params, plain = {"linear": draw(4, 3)}, {"x": draw(6, 4), "y": draw.labels(3, 6)}
    batch = page("losses")["mixed"](plain, jax.random.key(0), 3)
    assert_same(batch["target"].sum(1), jnp.ones(6))
    loss = page("losses")["mixed_loss"]

    def numbers(params):  # the Kullback-Leibler divergence, class by class
        logits = batch["x"] @ params["linear"]
        logs = logits - jnp.log(jnp.exp(logits).sum(1, keepdims=True))
        return list((batch["target"] * (jnp.log(batch["target"]) - logs)).sum(1))

    check(ksam_jax.per_example(loss), params, batch, numbers)
    # Half and half, and certain: where the model is right both are zero.
    for target in ([0.5, 0.5, 0.0], [1.0, 0.0, 0.0]):
        logits = jnp.log(jnp.asarray(target) + 1e-300)
        row = {"x": jnp.array([1.0]), "target": jnp.asarray(target)}
        assert abs(loss({"linear": logits[None]}, row)) < 1e-12


def test_mixing_is_of_pairs_of_rows_with_one_part_each():
    batch = {"x": 10.0 ** jnp.arange(5)[:, None], "y": jnp.arange(5)}
    out = page("losses")["mixed"](batch, jax.random.key(1), 5)
    # Smoothed labels are 0.9 y + 0.02: what each row has of each class.
    parts = (out["target"] - 0.02) / 0.9
    assert_same(out["x"][:, 0], parts @ batch["x"][:, 0])
    assert int(jnp.max(jnp.sum(parts > 1e-6, axis=1))) == 2


def weighted():
    draw = Draw(4)
    params, y = {"linear": draw(4, 3)}, jnp.array([0, 2, 1, 1, 0, 2])
    batch = page("losses")["with_weights"](
        {"x": draw(6, 4), "y": y}, jnp.array([1.0, 4.0, 0.5])
    )

    def plain(params):
        return [
            cross_entropy(x @ params["linear"], label)
            for x, label in zip(batch["x"], y, strict=True)
        ]

    # 1 + 0.5 + 4 + 4 + 1 + 0.5 is 11.
    return params, batch, plain, [w * 6 / 11 for w in (1, 0.5, 4, 4, 1, 0.5)]


def test_weights_of_classes_make_the_weighted_mean():
    params, batch, plain, weights = weighted()
    loss_fn = ksam_jax.per_example(page("losses")["weighted_loss"])

    def numbers(params):
        return [w * loss for w, loss in zip(weights, plain(params), strict=True)]

    check(loss_fn, params, batch, numbers)


def test_ranking_by_the_plain_loss_and_training_by_the_weighted_one():
    params, batch, plain, weights = weighted()
    loss_fn = ksam_jax.per_example(page("losses")["weighted_loss"])
    hardest = page("losses")["hardest_before_weights"](2)
    climb = ksam_jax.scale_to_radius(RHO)
    tx = ksam_jax.sharpness_aware(climb, ascent=hardest, descent=hardest)
    rows = highest(plain, params, 2)
    heavy = highest(lambda p: list(np.asarray(weights) * jnp.stack(plain(p))), params, 2)
    assert set(rows) != set(heavy)
    wanted = by_hand(lambda p: sum(weights[i] * plain(p)[i] for i in rows) / 6, params)
    assert_same(handed_on(tx, loss_fn, params, batch), wanted)


def test_lora_moves_the_factors_alone():
    draw = Draw(5)
    frozen, factors = {"kernel": draw(4, 3)}, {"down": draw(4, 2), "up": draw(2, 3)}
    batch = {"x": draw(6, 4), "y": draw.labels(3, 6)}

    def numbers(factors):
        whole = [frozen["kernel"] + factors["down"] @ factors["up"]] * 6
        return [
            cross_entropy(x @ w, y)
            for x, w, y in zip(batch["x"], whole, batch["y"], strict=True)
        ]

    loss_fn = page("losses")["with_lora"](frozen)
    check(loss_fn, factors, batch, numbers)
    start = {**factors, "up": jnp.zeros((2, 3))}
    first = jax.grad(lambda p: jnp.mean(loss_fn(p, batch)))(start)
    assert not jnp.any(first["down"])
    assert jnp.any(first["up"])
