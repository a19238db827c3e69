"""Prepared folders that are missing or damaged: a line says which, where, what helps."""

import io
import shutil

import numpy as np
import pytest
import runs
import tiny_tfds
from PIL import Image

from experiments.data import catalogue, glue
from experiments.shell.cli import UsageError

RECORDS = "mnist-train.array_record-00000-of-00001"
TEXTS = "glue-train.array_record-00000-of-00001"


def image(seed):
    content = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(256, size=(28, 28), dtype=np.uint8)
    Image.fromarray(pixels).save(content, "PNG")
    return {"image": content.getvalue(), "label": seed % 10}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with some images of MNIST and some texts of SST-2."""
    folder = tmp_path_factory.mktemp("tfds")
    label = tiny_tfds.class_label
    features = {"image": tiny_tfds.image((28, 28, 1)), "label": label(10)}
    images = {"train": [image(i) for i in range(30)], "test": [image(31)]}
    tiny_tfds.write(folder, "mnist", "3.0.1", features, images)
    features = {"sentence": tiny_tfds.text(), "label": label(2)}
    features["idx"] = tiny_tfds.scalar("int32")
    texts = [{"sentence": f"a {i}", "label": i % 2, "idx": i} for i in range(9)]
    splits = {"train": texts, "validation": texts}
    tiny_tfds.write(folder, "glue/sst2", "2.0.0", features, splits)
    return folder


@pytest.fixture
def data(whole, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(whole, tmp_path / "tfds")


def cut(share):
    def damage(path):
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])

    return damage


def put(text):
    return lambda path: path.write_text(text)


def gone(path):
    path.unlink()


DAMAGES = [
    (RECORDS, cut(0.0), "ArrayRecord file should be at least 64KB big"),
    (RECORDS, cut(0.5), "a record is no image"),
    (RECORDS, cut(0.99), "Corrupted Riegeli/records file: "),
    (RECORDS, gone, f"{RECORDS} is missing"),
    ("dataset_info.json", put("{half of"), "dataset_info.json isn't JSON"),
    ("dataset_info.json", put(""), "dataset_info.json isn't JSON"),
    ("dataset_info.json", put("[]"), "dataset_info.json has no splits"),
    ("dataset_info.json", gone, "dataset_info.json is missing"),
    ("features.json", put("{half of"), "features.json isn't JSON"),
    ("features.json", put("{}"), "features.json has no featuresDict"),
    ("features.json", gone, "features.json is missing"),
]


def line_of(caught):
    """What is said, which must be one line that names the folder and the remedy."""
    (line,) = str(caught.value).splitlines()
    return line


def read(data):
    dataset = catalogue.load("mnist", data)
    return dataset.fetch(np.arange(dataset.size))


@pytest.mark.parametrize(("name", "damage", "why"), DAMAGES)
def test_images_that_are_damaged(data, name, damage, why):
    folder = data / "mnist" / "3.0.1"
    damage(folder / name)
    left = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UsageError, match=r"^dataset 'mnist' is damaged in ") as caught:
        read(data)
    line = line_of(caught)
    assert f" is damaged in {folder} ({why}" in line
    assert "copy that folder again from where it was prepared, or delete it and " in line
    assert f"tfds build mnist --file_format array_record --data_dir {data}" in line
    # Nobody but the user deletes anything.
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == left


@pytest.mark.parametrize(
    ("name", "damage", "why"),
    [
        (TEXTS, cut(0.0), "ArrayRecord file should be at least 64KB big"),
        (TEXTS, cut(0.99), "Corrupted Riegeli/records file: "),
        (TEXTS, gone, f"{TEXTS} is missing"),
        ("dataset_info.json", put("{half of"), "dataset_info.json isn't JSON"),
        ("dataset_info.json", gone, "dataset_info.json is missing"),
        ("features.json", put("{half of"), "features.json isn't JSON"),
    ],
)
def test_texts_that_are_damaged(data, name, damage, why):
    """TFDS has no program for GLUE here, and goes by what is in the folder."""
    folder = data / "glue" / "sst2" / "2.0.0"
    damage(folder / name)
    with pytest.raises(UsageError, match=r"^dataset 'glue/sst2' is damaged in ") as caught:
        glue.load("glue/sst2", data, "train")
    line = line_of(caught)
    assert f" is damaged in {folder} ({why}" in line
    assert f"tfds build glue/sst2 --file_format array_record --data_dir {data}" in line


def without(folder):
    shutil.rmtree(folder)


def emptied(folder):
    for path in folder.iterdir():
        path.unlink()


def of_another_version(folder):
    folder.rename(folder.with_name("1.0.0"))


def for_tensorflow(folder):
    """As `tfds build` writes it without --file_format."""
    for path in folder.glob("*array_record*"):
        path.rename(folder / path.name.replace("array_record", "tfrecord"))
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))


@pytest.mark.parametrize("change", [without, emptied, of_another_version, for_tensorflow])
def test_what_is_not_there_is_missing_and_not_damaged(data, change):
    change(data / "mnist" / "3.0.1")
    with pytest.raises(UsageError, match=r"^dataset 'mnist' is not prepared in ") as caught:
        catalogue.load("mnist", data)
    line = line_of(caught)
    assert f"tfds build mnist --file_format array_record --data_dir {data} " in line
    assert "damaged" not in line


def test_a_run_ends_with_the_line_and_loses_nothing(data, tmp_path):
    """What was trained before the folder was damaged stays as it is."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "metrics.jsonl").write_text("of a run before\n")
    cut(0.0)(data / "mnist" / "3.0.1" / RECORDS)
    sizes = ("--train-examples", "16", "--validation-examples", "4", "--batch-size", "8")
    where = ("--data-dir", str(data), "--out", str(out), "--num-processes", "1")
    found = runs.ended(["--config", "mnist_1000_sgd", *sizes, *where])
    runs.assert_one_line(found, 2)
    assert f"dataset 'mnist' is damaged in {data}/mnist/3.0.1 (" in found.err
    assert (out / "metrics.jsonl").read_text() == "of a run before\n"
