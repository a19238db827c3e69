"""Augmentation of one example, against the same done by slicing in NumPy."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from experiments.data import augment, normalization
from experiments.data.augment import Augmentation
from experiments.data.normalization import Normalization
from experiments.processes import sharded
from experiments.shell.cli import UsageError

SHAPE = (7, 5, 2)
N = 400
# Chosen so that no pixel is zero once it is normalized.
ODD = Normalization((0.31, 0.53), (0.25, 0.75))
augmented = jax.jit(augment.augmented, static_argnums=(0, 1))
normalized = jax.jit(normalization.normalized, static_argnums=0)
# XLA may fuse a division with a subtraction, here and not there.
assert_close = partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6)
# All on; one number of images, so that one compilation does for most tests.
ON = Augmentation(crop=2, flip=True, cutout=4)
FEW = 32


def made_up(n=N, shape=SHAPE, low=1):
    rng = np.random.default_rng(5)
    return rng.integers(low, 256, size=(n, *shape), dtype=np.uint8)


example_keys = jax.jit(augment.example_keys)


def keys(n=N, seed=3, epoch=1):
    return example_keys(seed, np.full(n, epoch, np.int32), np.arange(n, dtype=np.int32))


def crops(image, padding):
    """Every crop of an image, by the place of its corner."""
    height, width, depth = image.shape
    padded = np.zeros((height + 2 * padding, width + 2 * padding, depth), image.dtype)
    padded[padding : padding + height, padding : padding + width] = image
    return {
        (top, left): padded[top : top + height, left : left + width]
        for top in range(2 * padding + 1)
        for left in range(2 * padding + 1)
    }


def holes(shape, size):
    """Every mask of Cutout by its centre: the authors' `np.clip`, for an even size."""
    height, width, _ = shape
    found = {}
    for y in range(height):
        for x in range(width):
            mask = np.ones((height, width, 1), bool)
            top, bottom = np.clip([y - size // 2, y + size // 2], 0, height)
            left, right = np.clip([x - size // 2, x + size // 2], 0, width)
            mask[top:bottom, left:right] = False
            found[y, x] = mask
    return found


def in_float64(images):
    return (images.astype(np.float64) / 255 - [0.31, 0.53]) / [0.25, 0.75]


def which(result, candidates):
    """The one candidate that equals the result."""
    equal = [name for name, array in candidates.items() if np.array_equal(array, result)]
    assert len(equal) == 1
    return equal[0]


def assert_uniform(found, expected):
    """Chi-squared, which exceeds its mean by five standard deviations once in a million."""
    counts = np.array([found.count(name) for name in expected])
    even = len(found) / len(expected)
    freedom = len(expected) - 1
    chi2 = ((counts - even) ** 2 / even).sum()
    assert counts.all()
    assert chi2 < freedom + 5 * np.sqrt(2 * freedom)


def test_a_crop_is_one_of_all_crops_each_equally_likely():
    images = made_up()
    crop = jax.jit(jax.vmap(lambda key, image: augment.random_crop(key, image, 2)))
    results = np.asarray(crop(keys(), images))
    assert results.dtype == np.uint8
    pairs = zip(results, images, strict=True)
    found = [which(result, crops(image, 2)) for result, image in pairs]
    assert_uniform(found, crops(images[0], 2))


def test_half_of_the_images_are_mirrored():
    images = made_up()
    results = np.asarray(jax.vmap(augment.random_flip)(keys(), jnp.asarray(images)))
    pairs = zip(results, images, strict=True)
    found = [which(r, {False: image, True: np.fliplr(image)}) for r, image in pairs]
    assert_uniform(found, [False, True])


@pytest.mark.parametrize("size", [2, 4])
def test_cutout_blanks_a_square_around_any_centre(size):
    images = made_up().astype(np.float32)
    cut = jax.jit(jax.vmap(lambda key, image: augment.cutout(key, image, size)))
    masks = np.asarray(cut(keys(), images)) != 0
    assert (np.asarray(cut(keys(), images)) == images * masks).all()
    # Both channels have the same hole. Holes of two centres may be alike at a border.
    assert (masks[..., :1] == masks).all()
    possible = [mask.tobytes() for mask in holes(SHAPE, size).values()]
    found = [mask.tobytes() for mask in masks[..., :1]]
    weights = {mask: possible.count(mask) / len(possible) for mask in possible}
    assert set(found) <= set(possible)
    counts = np.array([found.count(mask) for mask in weights])
    even = N * np.array(list(weights.values()))
    freedom = len(weights) - 1
    assert ((counts - even) ** 2 / even).sum() < freedom + 5 * np.sqrt(2 * freedom)


def test_an_odd_hole_has_its_full_size():
    images = np.ones((N, 9, 9, 1), np.float32)
    holes = np.asarray(jax.vmap(lambda k, i: augment.cutout(k, i, 3))(keys(), images)) == 0
    assert holes.sum((1, 2, 3)).max() == 9


def test_all_together_are_the_parts_in_their_order():
    images = made_up(n=FEW)
    results = augmented(ON, ODD, keys(FEW), images)
    assert (results.shape, results.dtype) == (images.shape, jnp.float32)
    for result, image in zip(np.asarray(results), images, strict=True):
        # Where there is no hole, a crop or its mirror image, normalized.
        seen = result != 0
        candidates = [
            in_float64(turned)
            for crop in crops(image, 2).values()
            for turned in (crop, np.fliplr(crop))
        ]
        assert any(
            np.allclose(result[seen], each[seen], rtol=1e-6, atol=1e-6)
            for each in candidates
        )
        assert not seen.all()


def test_nothing_on_is_evaluation():
    images = made_up(n=10)
    same = augmented(augment.NOTHING, ODD, keys(10), images)
    assert jnp.array_equal(same, normalized(ODD, images))


def test_switching_one_part_off_keeps_the_choices_of_the_others():
    images = made_up(n=FEW)
    both = augmented(Augmentation(crop=2, flip=True), ODD, keys(FEW), images)
    crop = augmented(Augmentation(crop=2), ODD, keys(FEW), images)
    pairs = zip(np.asarray(both), np.asarray(crop), strict=True)
    flips = [which(b, {False: c, True: np.fliplr(c)}) for b, c in pairs]
    assert {True, False} == set(flips)


def test_the_key_decides():
    images = made_up(n=1).repeat(FEW, axis=0)

    def pictures(**which):
        return np.asarray(augmented(ON, ODD, keys(FEW, **which), images))

    first = pictures()
    assert np.array_equal(first, pictures())
    # The same picture each time: another number gives another augmentation.
    assert len(np.unique(first, axis=0)) > 25
    for other in (pictures(seed=4), pictures(epoch=2)):
        assert (first != other).any((1, 2, 3)).mean() > 0.8


def test_keys_of_all_seeds_epochs_numbers_and_purposes_differ():
    index = jnp.arange(6)
    found = [
        jax.random.key_data(example_keys(seed, jnp.full(6, epoch), index, purpose))
        for seed in range(3)
        for epoch in range(3)
        for purpose in (augment.AUGMENTATION, 3)
    ]
    assert len(np.unique(np.concatenate(found), axis=0)) == 3 * 3 * 2 * 6


def test_an_example_gets_the_same_in_any_place_of_any_batch():
    images = made_up(n=FEW)
    order = np.random.default_rng(1).permutation(FEW)
    turned = augmented(ON, ODD, keys(FEW)[order], images[order])
    assert_close(turned, augmented(ON, ODD, keys(FEW), images)[order])


def test_devices_send_nothing_to_each_other():
    images = made_up(n=FEW)
    mesh = sharded.data_mesh()

    @jax.jit
    def step(index, images):
        own = augment.example_keys(3, jnp.full_like(index, 1), index)
        return augment.augmented(ON, ODD, own, images)

    spread = sharded.global_batch(mesh, FEW, (np.arange(FEW, dtype=np.int32), images))
    compiled = step.lower(*spread).compile()
    text = str(compiled.as_text())
    assert "all-" not in text
    assert "collective-" not in text
    result = compiled(*spread)
    assert result.sharding.is_equivalent_to(NamedSharding(mesh, P("data")), 4)
    assert_close(result, augmented(ON, ODD, keys(FEW), images))


@pytest.mark.parametrize("name", ["crop", "cutout"])
def test_a_negative_size_is_refused(name):
    with pytest.raises(UsageError, match=rf"{name} must be .* at least 0; got -1: 0 turns"):
        dataclasses.replace(augment.NOTHING, **{name: -1})
