"""Pictures around solutions: what is drawn where, told apart, and legible."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from experiments.methods import DEFAULT, METHODS
from experiments.results import plots
from experiments.results.plots import lines, maps, style

AT = np.linspace(-1, 1, 21)
# Figures are caught before they are written.
NOWHERE = Path("nowhere.png")
SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1.0)


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """The figures, instead of files."""
    figures = []
    monkeypatch.setattr(style, "save", lambda figure, path: figures.append(figure))
    return figures


def curve(name, values, at=AT):
    method = METHODS[name]
    band = 0.9 * values, 1.1 * values
    return plots.Curve(method.label, method.colour, method.marker, at, values, *band)


def bowl(sharpness):
    return 0.01 + sharpness * AT**2


def data(axes: Axes) -> list[Any]:
    """The lines that aren't samples beside names, or marks of a place."""
    return [line for line in axes.lines if line.get_transform() == axes.transData]


def written(figure: Figure) -> list[Text]:
    """All texts but the numbers at the axes, some of which are out of sight."""
    numbers = {
        label
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for label in axis.get_ticklabels(which="both")
    }
    texts = [text for text in figure.findobj(Text) if text not in numbers]
    return [text for text in texts if text.get_visible() and text.get_text().strip()]


def assert_legible(figure: Figure) -> None:
    """No text covers another, is cut off or too small."""
    figure.draw_without_rendering()
    boxes = [(text, text.get_window_extent()) for text in written(figure)]
    assert boxes
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        assert not a.overlaps(b), (one, other)
    for text, box in boxes:
        assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1, text
        assert figure.bbox.y0 <= box.y0 <= box.y1 <= figure.bbox.y1, text
        assert float(text.get_fontsize()) >= 11, text


# ----------------------------------------------------------------------------- curves


def test_all_methods_have_legible_names_and_looks_of_their_own(drawn):
    curves = [curve(name, bowl(1 + 0.01 * i)) for i, name in enumerate(DEFAULT)]
    plots.loss_slice(curves, NOWHERE, note="one\ntwo\nthree")
    assert_legible(drawn[0])
    names = [text.get_text().replace("\n", " ") for text in drawn[0].axes[0].texts]
    assert names == [METHODS[name].label for name in DEFAULT]
    looks = lines.looks(curves)
    # In grey, too.
    assert len({(look["marker"], look["ls"]) for look in looks}) == len(DEFAULT)


def test_curves_of_one_colour_and_marker_differ_in_their_line():
    """However many others there are between them."""
    names = ["k_sam", "k_sam_half", "k_sam_following", "k_momentum_following", "k_sam"]
    looks = lines.looks([curve(name, bowl(1.0)) for name in names])
    assert len({(look["color"], look["marker"], look["ls"]) for look in looks}) == len(
        names
    )


def test_curves_and_bands_are_those_that_were_given(drawn):
    sgd, sam = curve("sgd", bowl(3.0)), curve("sam", bowl(1.0))
    plots.loss_slice([sgd, sam], NOWHERE)
    (axes,) = drawn[0].axes
    shown = [line for line in data(axes) if len(line.get_xdata()) == len(AT)]
    for line, given in zip(shown, (sgd, sam), strict=True):
        np.testing.assert_array_equal(line.get_xdata(), given.at)
        np.testing.assert_array_equal(line.get_ydata(), given.values)
    for band, given in zip(axes.collections, (sgd, sam), strict=True):
        heights = band.get_paths()[0].vertices[:, 1]
        low, high = 0.9 * given.values, 1.1 * given.values
        assert (heights.min(), heights.max()) == (low.min(), high.max())
    assert axes.get_xlim() == (-1, 1)
    assert axes.get_yscale() == "log"
    assert "log scale" in axes.get_ylabel()
    low, high = axes.get_ylim()
    assert low < 0.009
    assert high > 3.311


def test_flat_curves_have_a_linear_scale_from_zero(drawn):
    plots.loss_slice([curve("sgd", 2 + AT**2)], NOWHERE)
    (axes,) = drawn[0].axes
    assert axes.get_yscale() == "linear"
    assert axes.get_ylim()[0] == 0


def test_what_is_not_finite_has_no_place_on_the_scale(drawn):
    broken = bowl(1.0)
    broken[[0, -1]] = np.inf, np.nan
    plots.loss_slice([curve("sgd", broken), curve("sam", bowl(0.5))], NOWHERE)
    assert drawn[0].axes[0].get_ylim()[1] < 2
    assert_legible(drawn[0])


@pytest.mark.parametrize("places", [[0.5], [0.9, 0.1], [0.2, 0.5, 0.8]])
def test_names_with_room_stay_where_they_are(places):
    assert lines.spread(places, [0.1] * len(places)) == pytest.approx(places)


def test_names_move_as_little_as_possible():
    # Two that meet part evenly; the third has room.
    three = [0.1] * 3
    assert lines.spread([0.5, 0.5, 0.9], three) == pytest.approx([0.45, 0.55, 0.9])
    assert lines.spread([0.98, 0.2, 1.0], three) == pytest.approx([0.9, 0.2, 1.0])
    assert lines.spread([0.0, 0.03, 0.0], three) == pytest.approx([0.0, 0.2, 0.1])
    # The third is as high as two.
    assert lines.spread([0.5, 0.2, 0.5], [0.1, 0.1, 0.2]) == pytest.approx(
        [0.425, 0.2, 0.575]
    )


def test_names_are_in_order_and_apart():
    places = np.random.default_rng(0).uniform(size=12)
    found = np.array(lines.spread(places.tolist(), [0.07] * 12))
    assert (np.argsort(found) == np.argsort(places)).all()
    assert np.diff(np.sort(found)).min() >= 0.07 - 1e-12
    assert found.min() >= 0
    assert found.max() <= 1 + 1e-12


def test_sharpness_over_training(drawn):
    epochs = np.array([2, 4, 6])
    plots.sharpness_over_training(
        [
            plots.Curve("SGD", "#000000", "s", epochs, np.array([1e-1, 1e-2, 1e-3])),
            plots.Curve("SAM", "#0072B2", "o", epochs[:2], np.array([1e-1, 1e-3])),
        ],
        NOWHERE,
        note="of the digits",
    )
    (axes,) = drawn[0].axes
    assert axes.get_xlim() == (0, 6)
    assert not axes.collections
    assert_legible(drawn[0])


def test_spectra_are_cut_where_a_log_scale_ends(drawn):
    at = np.linspace(-1, 10, 200)
    density = np.exp(-30 * at**2)
    plots.spectrum([curve("sgd", density, at), curve("sam", 0.5 * density, at)], NOWHERE)
    (axes,) = drawn[0].axes
    floor, high = axes.get_ylim()
    assert axes.get_yscale() == "log"
    assert high / floor == pytest.approx(2e7)
    shown = [line for line in data(axes) if len(line.get_xdata()) == len(at)]
    values = np.array(shown[0].get_ydata())
    np.testing.assert_array_equal(values[np.isfinite(values)], density[density > floor])
    assert_legible(drawn[0])


# ------------------------------------------------------------------------------- maps


@pytest.mark.parametrize(
    ("low", "high"), [(1.1, 1.3), (0.3, 2.5), (2e-4, 8.0), (3e-9, 5e3), (0.0, 5.0)]
)
def test_levels_are_round_and_cover_all_losses(low, high):
    losses = np.array([[low, high], [0.5 * (low + high), np.inf]])
    found = maps.levels([losses, np.array([[high, np.nan]])])
    assert (np.diff(found) > 0).all()
    assert 3 <= len(found) <= maps.MOST
    assert found[0] <= max(low, 1e-8 * high)
    assert found[-2] <= high < found[-1]
    for level in found:
        assert float(f"{level:.2e}") == pytest.approx(level)


def test_equal_losses_have_levels():
    found = maps.levels([np.full((2, 2), 0.7)])
    assert found[0] <= 0.7 < found[-1]


def surface(name, sharpness):
    losses = 1e-3 + sharpness * (AT[:, None] ** 2 + 4 * AT**2)
    return plots.Surface(METHODS[name].label, AT, losses)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_surfaces_share_levels_and_one_bar(drawn, count):
    surfaces = [surface(name, 3.0**i) for i, name in enumerate(DEFAULT[:count])]
    plots.loss_surface(surfaces, NOWHERE, note="one\ntwo")
    *panels, bar = drawn[0].axes
    assert [axes.get_title(loc="left") for axes in panels] == [s.label for s in surfaces]
    areas = [axes.collections[0] for axes in panels]
    for one in areas[1:]:
        np.testing.assert_array_equal(one.levels, areas[0].levels)
        assert one.cmap is areas[0].cmap
    assert bar.get_ylabel() == "mean training loss"
    sizes = {tuple(np.round(axes.get_position().size, 9)) for axes in panels}
    assert len(sizes) == 1
    drawn[0].draw_without_rendering()
    # Squares, since a unit is as long in both directions.
    box = panels[0].get_window_extent()
    assert box.width == pytest.approx(box.height)
    assert_legible(drawn[0])


def test_a_plane_has_its_solutions_where_they_are(drawn):
    xs, ys = np.linspace(-3, 9, 31), np.linspace(-2, 5, 31)
    places = {"sgd": (0, 0), "sam": (6, 0), "k_sam": (2, 3)}
    solutions = [
        plots.Solution(METHODS[n].label, METHODS[n].colour, METHODS[n].marker, x, y)
        for n, (x, y) in places.items()
    ]
    losses = 1e-3 + (xs - 2) ** 2 + (ys[:, None] - 1) ** 2
    losses[:, :4] = np.nan
    plots.loss_plane(solutions, xs, ys, losses, NOWHERE, note="of the digits")
    axes, _ = drawn[0].axes
    marks = [(*line.get_xdata(), *line.get_ydata()) for line in axes.lines]
    assert marks == list(places.values())
    # Where there is no loss there is no colour.
    edges = np.concatenate([path.vertices for path in axes.collections[0].get_paths()])
    assert edges[:, 0].min() == pytest.approx(xs[4])
    assert_legible(drawn[0])


# -------------------------------------------------------------------------- alignment


@pytest.mark.parametrize("count", [1, 4])
def test_alignment_shows_medians_bands_and_the_recommended_share(drawn, count):
    rng = np.random.default_rng(0)
    hardest, random = rng.uniform(0.7, 1, (20, 6)), rng.uniform(-0.2, 1, (20, 6))
    solutions = [
        plots.Aligned(METHODS[name].label, SHARES, hardest, random, 1 / 4, 0.9)
        for name in DEFAULT[:count]
    ]
    plots.alignment(solutions, NOWHERE, note="one\ntwo")
    axes = drawn[0].axes[0]
    lower, upper, *_ = axes.lines
    np.testing.assert_allclose(lower.get_ydata(), np.median(random, axis=0))
    np.testing.assert_allclose(upper.get_ydata(), np.median(hardest, axis=0))
    assert lower.get_linestyle() != upper.get_linestyle()
    heights = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert heights.min() == pytest.approx(np.quantile(random, 0.1, axis=0).min())
    dotted = axes.lines[-1]
    assert list(dotted.get_xdata()) == [1 / 4, 1 / 4]
    shares = {one.get_text(): one.get_fontweight() for one in axes.get_xticklabels()}
    assert list(shares) == ["1/16", "1/8", "1/4", "1/2", "3/4", "1"]
    assert [share for share, weight in shares.items() if weight == "bold"] == ["1/4"]
    assert_legible(drawn[0])


def test_files_are_of_a_slides_size(tmp_path):
    plots.loss_slice([curve("sgd", bowl(1.0))], tmp_path / "new" / "slice.png")
    with Image.open(tmp_path / "new" / "slice.png") as image:
        assert image.size == (1650, 990)
