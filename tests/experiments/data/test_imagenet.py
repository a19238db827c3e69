"""ImageNet: crops against arithmetic, on a few images that the tests make."""

import io
import math
from typing import Any

import numpy as np
import pytest
import tiny_tfds
from PIL import Image
from scipy import stats
from tiny_images import FEATURES, examples, file, noise

from experiments.data import imagenet
from experiments.data.batches import Batches, evaluation
from experiments.data.memory import part
from experiments.shell.cli import UsageError

SIZE = 14


def opened(image, kind="PNG", **options):
    """An image as it comes from a file: not decoded yet."""
    return Image.open(io.BytesIO(file(image, kind, **options)))


def ramp(width, height):
    """Red grows by 4 a pixel to the right, or up to 240; green by as much downwards."""
    slopes = [min(4.0, 240 / side) for side in (width, height)]
    x, y = np.meshgrid(np.arange(width) * slopes[0], np.arange(height) * slopes[1])
    pixels = np.stack([x, y, np.full_like(x, 77)], axis=-1)
    return Image.fromarray(pixels.round().astype(np.uint8)), slopes


def ramp_in(box, slopes, size):
    """What a ramp is in the middles of `size` x `size` equal parts of a box."""
    left, top, right, bottom = box
    middles = (np.arange(size) + 0.5) / size
    red = slopes[0] * (left + (right - left) * middles - 0.5)
    green = slopes[1] * (top + (bottom - top) * middles - 0.5)
    columns, rows = np.meshgrid(red, green)
    return np.stack([columns, rows, np.full_like(rows, 77)], axis=-1)


IMAGES = [
    noise(60, 40),
    noise(33, 57, 1),
    noise(12, 16, 2).convert("L"),
    Image.new("CMYK", (30, 20), (51, 102, 0, 0)),
    noise(160, 20, 3),
    noise(48, 48, 4),
    noise(40, 60, 5),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("tfds")
    splits = {
        "train": examples([file(image) for image in IMAGES], "n01440764"),
        "validation": examples([file(ramp(32, 48)[0], "PNG")] * 2, "val"),
    }
    tiny_tfds.write(made, "imagenet2012", "5.1.0", FEATURES, splits)
    return made


@pytest.fixture(scope="module")
def train(folder):
    return imagenet.load(folder, "train", SIZE)


# What is loaded.


def test_imagenet_is_loaded_with_the_validation_set_as_test(folder, train):
    assert (train.title, train.source, train.shape, train.classes, train.size) == (
        "ImageNet",
        "tensorflow_datasets imagenet2012/5.1.0",
        (SIZE, SIZE, 3),
        1000,
        7,
    )
    assert train.official_test is None
    # Inside the file are 28 x 28 pixels, from (2, 10) on.
    test = imagenet.load(folder, "test", SIZE)
    images, labels = test.fetch(np.array([1, 0]))
    assert (images.dtype, labels.dtype, labels.tolist()) == (np.uint8, np.int32, [7, 0])
    expected = ramp_in((2, 10, 30, 38), (4, 4), SIZE)
    np.testing.assert_allclose(images[0], expected, atol=1)
    np.testing.assert_array_equal(images[0], images[1])
    assert imagenet.load(folder, "test").shape == (224, 224, 3)


def test_missing_data_names_the_folder_and_the_command(tmp_path):
    with pytest.raises(UsageError, match=f"not prepared in {tmp_path}; .* tfds build"):
        imagenet.load(tmp_path)


def test_a_split_that_nobody_knows_is_told(folder):
    with pytest.raises(UsageError, match=r"unknown split 'valid'.*Valid: train, test"):
        imagenet.load(folder, "valid")


@pytest.mark.parametrize(
    ("image", "colour"),
    [
        (Image.new("L", (30, 20), 90), (90, 90, 90)),
        # (1 - ink) (1 - black) of 255.
        (Image.new("CMYK", (30, 20), (51, 102, 0, 0)), (204, 153, 255)),
        (Image.new("CMYK", (30, 20), (0, 51, 255, 51)), (204, 163, 0)),
        (Image.new("RGB", (30, 20), (200, 100, 50)), (200, 100, 50)),
    ],
)
def test_greyscale_and_cmyk_become_rgb(image, colour):
    rng = np.random.default_rng(0)
    middle = imagenet.evaluated(opened(image, "JPEG", quality=100), SIZE)
    drawn = imagenet.random_part(opened(image, "JPEG", quality=100), SIZE, rng)
    for pixels in (middle, drawn):
        expected = np.broadcast_to(np.array(colour, np.uint8), (SIZE, SIZE, 3))
        np.testing.assert_allclose(pixels, expected, atol=2)


def test_colours_of_a_palette_are_averaged_not_their_numbers():
    stripes = np.tile(np.array([0, 2], np.uint8), (16, 8))
    image = Image.fromarray(stripes)
    image.putpalette([0, 0, 0, 255, 0, 0, 200, 100, 0])
    pixels = imagenet.evaluated(opened(image), 2)
    np.testing.assert_allclose(pixels[..., 1], 50, atol=8)
    np.testing.assert_array_equal(pixels[..., 2], 0)


# Evaluation.


@pytest.mark.parametrize(
    ("width", "height", "box"),
    [
        (60, 40, (12.5, 2.5, 47.5, 37.5)),
        (40, 60, (2.5, 12.5, 37.5, 47.5)),
        (51, 48, (4.5, 3, 46.5, 45)),
        # Enlarged: the image is smaller than what is asked for.
        (16, 8, (4.5, 0.5, 11.5, 7.5)),
    ],
)
def test_evaluation_sees_seven_eighths_of_the_shorter_side(width, height, box):
    image, slopes = ramp(width, height)
    pixels = imagenet.evaluated(opened(image), SIZE)
    np.testing.assert_allclose(pixels, ramp_in(box, slopes, SIZE), atol=1)


def test_evaluation_is_what_resizing_first_and_cropping_then_gives():
    image = noise(48, 32)
    resized = image.resize((24, 16), Image.Resampling.BILINEAR)
    expected = np.asarray(resized.crop((5, 1, 19, 15)))
    assert expected.std() > 20
    np.testing.assert_allclose(imagenet.evaluated(opened(image), 14), expected, atol=1)


# Where random parts lie.


def boxes(width, height, number):
    return np.array(
        [
            imagenet.random_box(imagenet.generator(0, 0, i), width, height)
            for i in range(number)
        ]
    )


@pytest.mark.parametrize(
    ("width", "height"), [(500, 375), (375, 500), (64, 64), (9, 7), (1000, 100), (60, 590)]
)
def test_random_parts_are_inside_and_within_bounds(width, height):
    found = boxes(width, height, 400)
    left, top, right, bottom = found.T
    assert np.all((left >= 0) & (top >= 0) & (right <= width) & (bottom <= height))
    w, h = right - left, bottom - top
    # Sides are rounded: by half a pixel at most.
    assert np.all((w + 0.5) * (h + 0.5) >= 0.08 * width * height)
    assert np.all((w + 0.5) / (h - 0.5) >= 3 / 4)
    assert np.all((w - 0.5) / (h + 0.5) <= 4 / 3)
    assert len(np.unique(found, axis=0)) > 50


def test_random_parts_are_whole_pixels_that_reach_all_borders():
    found = boxes(8, 6, 2000)
    np.testing.assert_array_equal(found, found.round())
    assert found.min(0).tolist()[:2] == [0, 0]
    assert found.max(0).tolist()[2:] == [8, 6]
    # One pixel narrower or lower than the image, it is as often at one border as at the
    # other.
    for side, axis in ((8, 0), (6, 1)):
        starts = found[found[:, axis + 2] - found[:, axis] == side - 1, axis]
        assert set(starts) == {0, 1}
        assert stats.binomtest(int(starts.sum()), len(starts)).pvalue > 0.05


@pytest.mark.parametrize(
    ("width", "height", "box"),
    [
        (6000, 60, (2960, 0, 3040, 60)),
        (60, 6000, (0, 2960, 60, 3040)),
    ],
)
def test_where_no_part_fits_it_is_the_largest_in_the_middle(width, height, box):
    # The smallest area, 8%, is wider than high by far more than 4/3.
    np.testing.assert_allclose(boxes(width, height, 5), [box] * 5)


def accepted_area(area):
    """The distribution function of the areas of boxes that fit a square.

    One of area a fits if |log aspect| <= -log a: always up to 3/4, and beyond with
    probability -log a / log(4/3), whose integral is (a - a log a) / log(4/3).
    """

    def fits(a):
        beyond = np.maximum(a, 0.75)
        tail = beyond - beyond * np.log(beyond) - (0.75 - 0.75 * math.log(0.75))
        return np.minimum(a, 0.75) - 0.08 + tail / math.log(4 / 3)

    return fits(area) / fits(np.float64(1.0))


def test_areas_aspects_and_places_are_distributed_as_the_paper_says():
    side = 100_000
    left, top, right, bottom = boxes(side, side, 3000).T / side
    w, h = right - left, bottom - top
    # As larger ones don't fit with all aspects, they aren't asked.
    small = w * h < 0.75
    aspects = np.log(w / h)[small] / math.log(4 / 3)
    places = [(left / (1 - w))[small], (top / (1 - h))[small]]
    uniform = stats.uniform(0, 1).cdf
    chances = [
        stats.kstest(w * h, accepted_area)[1],
        stats.kstest(aspects, stats.uniform(-1, 2).cdf)[1],
        *(stats.kstest(place, uniform)[1] for place in places),
        # None is had from another.
        stats.spearmanr((w * h)[small], aspects)[1],
        stats.spearmanr(*places)[1],
    ]
    assert min(chances) > 0.05 / len(chances)


def test_seed_epoch_and_number_each_decide():
    seen = {
        (seed, epoch, index): imagenet.generator(seed, epoch, index).random()
        for seed in range(3)
        for epoch in range(3)
        for index in range(3)
    }
    assert len(set(seen.values())) == 27
    again = imagenet.generator(1, 2, 0).random()
    assert again == seen[1, 2, 0]


# What random parts show.


@pytest.mark.parametrize("seed", range(4))
def test_a_random_part_is_the_box_that_was_drawn(seed):
    image, slopes = ramp(60, 44)
    box = imagenet.random_box(np.random.default_rng(seed), 60, 44)
    pixels = imagenet.random_part(opened(image), SIZE, np.random.default_rng(seed))
    expected = ramp_in(box, slopes, SIZE)
    # At the image's border there is nothing beyond to average with.
    np.testing.assert_allclose(pixels[1:-1, 1:-1], expected[1:-1, 1:-1], atol=1)


@pytest.mark.parametrize("seed", range(4))
def test_a_large_jpeg_is_decoded_smaller_and_shows_the_same(seed):
    image, slopes = ramp(805, 603)
    rng, again = (np.random.default_rng(seed) for _ in range(2))
    read = opened(image, "JPEG", quality=95)
    box = imagenet.random_box(again, 805, 603)
    pixels = imagenet.random_part(read, SIZE, rng)
    assert read.size in {(101, 76), (202, 151)}
    expected = ramp_in(box, slopes, SIZE)
    np.testing.assert_allclose(pixels[1:-1, 1:-1], expected[1:-1, 1:-1], atol=2)


def test_twice_as_many_pixels_as_asked_for_remain():
    encoded = file(Image.new("RGB", (800, 600)))
    factors = set()
    for seed in range(20):
        read = Image.open(io.BytesIO(encoded))
        left, top, right, bottom = imagenet.random_box(
            np.random.default_rng(seed), 800, 600
        )
        imagenet.random_part(read, 56, np.random.default_rng(seed))
        factor = 800 // read.size[0]
        factors.add(factor)
        sides = (right - left, bottom - top)
        assert factor == max(f for f in (1, 2, 4, 8) if min(sides) >= 2 * 56 * f or f == 1)
    assert factors >= {2, 4}


def test_random_parts_follow_from_seed_epoch_and_number_alone(train):
    together = train.random_fetch(np.array([6, 1, 0, 5]), 3, 11)
    assert (together.inputs.shape, together.inputs.dtype) == ((4, SIZE, SIZE, 3), np.uint8)
    assert (together.labels.dtype, together.labels.tolist()) == (np.int32, [42, 7, 0, 35])
    for place, number in enumerate([6, 1, 0, 5]):
        alone = train.random_fetch(np.array([number]), 3, 11)
        np.testing.assert_array_equal(alone.inputs[0], together.inputs[place])
        read = opened(IMAGES[number], "JPEG")
        expected = imagenet.random_part(read, SIZE, imagenet.generator(11, 3, number))
        np.testing.assert_array_equal(alone.inputs[0], expected)
    a_part: Any = part(train, np.array([3, 5, 6]))
    of_a_part = a_part.random_fetch(np.array([2, 1]), 3, 11)
    np.testing.assert_array_equal(of_a_part.inputs, together.inputs[[0, 3]])
    for epoch, seed in ((4, 11), (3, 12)):
        others = train.random_fetch(np.array([6, 1, 0, 5]), epoch, seed)
        for mine, other in zip(together.inputs, others.inputs, strict=True):
            assert np.any(mine != other)


@pytest.mark.parametrize("threads", [0, 3])
def test_batches_are_random_parts_and_evaluation_is_not(train, threads):
    with Batches(train, 3, seed=5, threads=threads) as batches:
        found = [next(batches) for _ in range(5)]
    assert [rows.epoch[0] for rows in found] == [0, 0, 1, 1, 2]
    for rows in found:
        inputs, labels = train.random_fetch(rows.index, int(rows.epoch[0]), 5)
        np.testing.assert_array_equal(rows.inputs, inputs)
        np.testing.assert_array_equal(rows.labels, labels)
    middles = train.fetch(np.arange(7)).inputs
    for start, rows in zip((0, 4), evaluation(train, 4), strict=True):
        expected = middles[np.minimum(np.arange(start, start + 4), 6)]
        np.testing.assert_array_equal(rows.inputs, expected)


# Damaged files.


def with_a_hole(png):
    """A PNG whose second part of the pixels isn't marked as such."""
    head, _, tail = png.rpartition(b"IDAT")
    assert b"IDAT" in head
    return head + bytes(4) + tail


DAMAGED = {
    "empty": (b"", "this is no image"),
    "another": (b"<html>not found</html>", "this is no image"),
    "cut off": (file(noise(160, 120))[:3000], "image file is truncated.*"),
    "hole": (with_a_hole(file(noise(300, 200), "PNG")), "broken PNG file .*"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_image_is_named(tmp_path, name):
    damaged, reason = DAMAGED[name]
    images = examples([file(IMAGES[0]), damaged], "n02")
    tiny_tfds.write(tmp_path, "imagenet2012", "5.1.0", FEATURES, {"train": images})
    dataset = imagenet.load(tmp_path, "train", SIZE)
    expected = f"^example 1 of ImageNet, n02_1.JPEG, can't be decoded: {reason}; the"
    with pytest.raises(UsageError, match=expected):
        dataset.fetch(np.array([0, 1]))
    with (
        Batches(dataset, 2, seed=0, threads=1) as batches,
        pytest.raises(UsageError, match=expected),
    ):
        next(batches)
