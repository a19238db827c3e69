"""Labels of a crowded picture cover neither each other nor the points."""

import itertools

import pytest
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from experiments.results.plots.labels import Point, label_points


def test_a_label_covers_no_point_without_a_label():
    figure = Figure(figsize=(5, 4), dpi=100)
    axes = figure.add_subplot()
    axes.set(xlim=(0, 2), ylim=(0, 2))
    mine = Point(1, 1, 0.9, 1.1, "mine", "#0072B2")
    others = [Point(1, y, y, y, "", "#0072B2") for y in (0.8, 1.2)]
    label_points(figure, axes, [mine], 11, others)
    (text,) = axes.texts
    box = text.get_window_extent()
    for point in (mine, *others):
        assert not box.contains(*axes.transData.transform((point.x, point.y)))


PLACES = [
    (0.6, 96.7),
    (0.8, 97.2),
    (1.0, 95.8),
    (1.2, 96.5),
    (1.26, 96.3),
    (1.77, 96.8),
    (2.0, 96.2),
    (2.035, 96.25),
    (2.07, 96.3),
]
POINTS = [
    Point(x, y, y - 0.4, y + 0.4, f"method number {i}", "#0072B2")
    for i, (x, y) in enumerate(PLACES)
]


@pytest.fixture(scope="module")
def labelled():
    """Axes with a label at each point."""
    figure = Figure(figsize=(10, 6), dpi=100)
    axes = figure.add_subplot()
    axes.set(xlim=(0.4, 2.4), ylim=(95, 98))
    label_points(figure, axes, POINTS, size=11)
    figure.canvas.draw()
    return axes


def boxes_of(axes):
    return [text.get_window_extent() for text in axes.texts]


def test_labels_do_not_overlap(labelled):
    assert sorted(text.get_text() for text in labelled.texts) == [p.label for p in POINTS]
    for a, b in itertools.combinations(boxes_of(labelled), 2):
        assert Bbox.intersection(a, b) is None


def test_labels_hide_no_point(labelled):
    for point, box in itertools.product(POINTS, boxes_of(labelled)):
        x, y = labelled.transData.transform((point.x, point.y))
        assert not box.contains(x, y)


def test_labels_stay_within_the_frame(labelled):
    frame = labelled.get_window_extent()
    for box in boxes_of(labelled):
        assert frame.x0 <= box.x0
        assert box.x1 <= frame.x1
