"""The pages' figures are those of result files, and copying twice changes nothing."""

import json
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from experiments import figures
from experiments.pages import gallery
from experiments.pages.block import Block, Source
from experiments.pages.picture import Picture
from experiments.pages.renders import mislabelled
from experiments.results import records
from experiments.results.contents import COMPARISON
from experiments.results.markdown import comparison
from experiments.shell import cli

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
TEXT = f"# Title\n\nbefore\n\n{BEGIN}\nold figures\n{END}\n\nafter\n"
SOURCE = Path("results/reference/digits/results.json")
SETUP = {"methods": ["sgd", "k_sam"], "seeds": 2, "splits": 2, "label_noise": 0.0}


def entries(*accuracies):
    return [
        {
            "split": split,
            "hyperparameters": {"learning_rate": 0.1},
            "seconds": 1.0,
            "test_accuracy": accuracy,
            "validation_accuracy": accuracy,
            "train_loss": [0.1, 0.2],
            "sharpness": [0.01, 0.02],
        }
        for split, accuracy in enumerate(accuracies)
    ]


MADE = {
    "version": 1,
    "complete": True,
    "command": "python -m experiments.compare --splits 2",
    "date": "2030-01-02",
    "config": SETUP,
    "dataset": {"title": "digits", "train": 384, "validation": 516, "test": 897},
    "protocol": {"model": "MLP 256-256", "epochs": 60},
    "search": "by hand",
    "notes": ["A caveat."],
    "machine": {
        **{"cores": 2, "cpu": "a CPU", "system": "Linux x86_64"},
        **{"device": "cpu", "backend": "cpu"},
    },
    "versions": {"python": "3.11.0", "jax": "0.10.2"},
    "seconds": 150.0,
}


def results():
    """On two splits, with a cost of K-SAM."""
    runs = {
        "sgd": entries([0.9, 0.91], [0.92, 0.93]),
        "k_sam": entries([0.95, 0.95], [0.96, 0.94]),
    }
    content = records.summarised(runs) | MADE
    time = {"median": 1.25, "lower_quartile": 1.2, "upper_quartile": 1.3}
    cost = {"operations": 789.0, "milliseconds": 2.5, "operations_vs_sgd": 0.789}
    content["methods"]["k_sam"]["cost"] = cost | {"time_vs_sgd": time}
    return content


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a README and results."""
    folder = tmp_path / "results" / "reference" / "digits"
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(results()))
    (tmp_path / "README.md").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    show(monkeypatch, SOURCE)
    return tmp_path


def show(monkeypatch, *sources, render=comparison, page="README.md"):
    found = tuple(Source(COMPARISON, source) for source in sources)
    block = Block(Path(page), "results", found, render)
    monkeypatch.setattr(figures, "BLOCKS", (block,))
    monkeypatch.setattr(figures, "PICTURES", ())


def run(*options):
    return cli.run(figures.main, options)


def test_figures_are_copied_between_the_marks(project):
    assert run() == 0
    text = (project / "README.md").read_text()
    assert text.startswith(f"# Title\n\nbefore\n\n{BEGIN}\n")
    assert text.endswith(f"\n{END}\n\nafter\n")
    assert "old figures" not in text
    # Means of 90.5 and 92.5, then of 95 and 95; t with one degree of freedom is 12.706,
    # so SGD's margin is 12.706 * sqrt(2) / sqrt(2) = 12.71.
    assert "| SGD | 91.50 ± 12.71 | 0.71 | n/a | n/a | 0.015 |" in text
    assert "| K-SAM, k = 1/4 | 95.00 ± 0.00 | 1.00 | 0.79 | 1.25 [1.20, 1.30] |" in text
    # Differences 4.5 and 2.5.
    assert (
        "| K-SAM, k = 1/4, minus SGD | +3.50 | -9.21 to +16.21 (paired over 2 splits) |"
        in text
    )
    assert "](results/reference/digits/comparison.png)" in text
    assert "A caveat." in text
    assert "(2.5 minutes on 2 cores, a CPU" in text


def test_copying_twice_changes_nothing_and_check_agrees(project, capsys):
    assert run("--check") == 1
    assert (project / "README.md").read_text() == TEXT
    assert run() == 0
    once = (project / "README.md").read_text()
    assert run("--check") == 0
    assert run() == 0
    assert (project / "README.md").read_text() == once
    assert "up to date" in capsys.readouterr().out


def test_a_changed_figure_makes_it_stale(project):
    assert run() == 0
    path = project / "results" / "reference" / "digits" / "results.json"
    path.write_text(path.read_text().replace('"seconds": 150.0', '"seconds": 600.0'))
    assert run("--check") == 1


def test_a_page_in_a_folder_finds_the_picture(project, monkeypatch):
    (project / "docs").mkdir()
    (project / "docs" / "page.md").write_text(TEXT)
    show(monkeypatch, SOURCE, page="docs/page.md")
    assert run() == 0
    text = (project / "docs" / "page.md").read_text()
    assert "](../results/reference/digits/comparison.png)" in text


def test_shares_of_wrong_labels_are_columns(project, monkeypatch):
    clean = json.loads(SOURCE.read_text())
    noisy = json.loads(SOURCE.read_text()) | {"config": {**SETUP, "label_noise": 0.2}}
    del clean["methods"]["k_sam"]
    noisy["methods"]["sgd"]["summary"]["test_accuracy"] |= {"mean": 0.5, "high": 0.51}
    (project / "noisy.json").write_text(json.dumps(noisy))
    (project / "clean.json").write_text(json.dumps(clean))
    show(monkeypatch, Path("clean.json"), Path("noisy.json"), render=mislabelled)
    assert run() == 0
    text = (project / "README.md").read_text()
    assert "| test accuracy % | 0% wrong | 20% wrong |" in text
    assert "| SGD | 91.50 ± 12.71 | 50.00 ± 1.00 |" in text
    assert "K-SAM, k" not in text  # Not in both.


def test_a_page_without_marks_costs_one_line(project, capsys):
    (project / "README.md").write_text("no marks")
    assert run() == 2
    said = capsys.readouterr().err
    assert "must have <!-- results:begin -->" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (None, "can't read the.json: No such file"),
        (results() | {"complete": False}, "of a run that wasn't finished"),
        ([], "is not results of a comparison: it has no names"),
        ({}, "the.json must be results of a comparison in version 1"),
    ],
    ids=["missing", "unfinished", "other", "old"],
)
def test_a_file_without_results_costs_one_line(project, monkeypatch, capsys, content, line):
    if content is not None:
        (project / "the.json").write_text(json.dumps(content))
    show(monkeypatch, Path("the.json"))
    assert run() == 2
    said = capsys.readouterr().err
    assert line in said
    assert said.count("\n") == 1


def test_a_picture_is_drawn_anew_where_its_results_have_changed(
    project, monkeypatch, capsys
):
    def draw(content, path, source):
        drawn.append(content["seconds"])
        Image.new("RGB", (2, 2)).save(path, pnginfo=text_of("Source", source))

    drawn = []
    picture = Picture(project / "new.png", (Source(COMPARISON, SOURCE),), draw)
    monkeypatch.setattr(figures, "PICTURES", (picture,))
    assert run() == 0
    assert run() == 0
    assert run("--check") == 0
    assert drawn == [150.0]
    SOURCE.write_text(SOURCE.read_text().replace('"seconds": 150.0', '"seconds": 600.0'))
    capsys.readouterr()
    assert run("--check") == 1
    assert "new.png is stale" in capsys.readouterr().err
    assert run() == 0
    assert drawn == [150.0, 600.0]


def text_of(key, value):
    info = PngInfo()
    info.add_text(key, value)
    return info


def test_the_gallery_has_every_picture_of_the_results_and_no_other():
    listed = [one.picture for one in gallery.ALL]
    committed = Path(__file__).parents[2] / "results" / "reference"
    there = {path.relative_to(committed).as_posix() for path in committed.rglob("*.png")}
    assert len(set(listed)) == len(listed)
    assert set(listed) == there


def test_each_picture_of_the_gallery_has_the_command_of_its_results():
    contents = [{"command": f"python -m {one.picture}"} for one in gallery.ALL]
    parts = gallery.markdown(*contents, folder="").split("\n### ")[1:]
    for one, part in zip(gallery.ALL, parts, strict=True):
        assert part.startswith(f"{one.title}\n")
        command = one.command or f"python -m {one.picture}"
        place = f"../results/reference/{one.picture}"
        assert f"[![{one.title}]({place})]({place})\n\n`{command}`" in part
