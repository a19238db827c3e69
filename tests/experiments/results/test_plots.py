"""Labels of a crowded picture cover neither each other nor the points."""

import itertools

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


def test_labels_do_not_overlap():
    figure = Figure(figsize=(10, 6), dpi=100)
    axes = figure.add_subplot()
    places = [
        (0.6, 96.7),
        (0.8, 97.2),
        (1.0, 95.8),
        (1.2, 96.5),
        (1.26, 96.3),
        (1.77, 96.8),
    ]
    places += [(2.0, 96.2), (2.035, 96.25), (2.07, 96.3)]
    points = [
        Point(x, y, y - 0.4, y + 0.4, f"method number {i}", "#0072B2")
        for i, (x, y) in enumerate(places)
    ]
    axes.set(xlim=(0.4, 2.4), ylim=(95, 98))
    label_points(figure, axes, points, size=11)
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert sorted(text.get_text() for text in axes.texts) == [p.label for p in points]
    for a, b in itertools.combinations(boxes, 2):
        assert Bbox.intersection(a, b) is None
    for point, box in itertools.product(points, boxes):
        x, y = axes.transData.transform((point.x, point.y))
        assert not box.contains(x, y)
    frame = axes.get_window_extent()
    for box in boxes:
        assert frame.x0 <= box.x0
        assert box.x1 <= frame.x1
