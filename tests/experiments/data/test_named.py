"""A data set is one object: nobody compares its name, and a new one is a line."""

import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_tfds
from PIL import Image

from experiments.configs import rows
from experiments.data import catalogue

HOUSE = Path(__file__).parents[3]
FEATURES = {
    "image": tiny_tfds.image((28, 28, 1), "png"),
    "label": tiny_tfds.class_label(10),
}


def examples(number, seed):
    pixels = np.random.default_rng(seed).integers(
        256, size=(number, 28, 28), dtype=np.uint8
    )
    found = []
    for i, image in enumerate(pixels):
        content = io.BytesIO()
        Image.fromarray(image).save(content, "PNG")
        found.append({"image": content.getvalue(), "label": i % 10})
    return found


def replaced(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, path
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_images_of_tfds_are_a_line_in_the_catalogue_and_one_of_a_config(tmp_path):
    house = tmp_path / "experiments"
    shutil.copytree(HOUSE / "experiments", house)
    cifar100 = '        Images("cifar100", "CIFAR-100"),\n'
    ours = '        Images("kmnist", "Kuzushiji-MNIST"),\n'
    replaced(house / "data/catalogue.py", cifar100, cifar100 + ours)
    bases = 'BASES = (SGD, replace(SGD, dataset="cifar100"), CNN'
    small = house / "configs/small.py"
    replaced(small, f"{bases})", f'{bases}, replace(CNN, dataset="kmnist"))')
    splits = {"train": examples(30, 0), "test": examples(10, 1)}
    tiny_tfds.write(tmp_path / "tfds", "kmnist", "3.0.1", FEATURES, splits)
    options = f"--epochs 1 --batch-size 10 --data-dir {tmp_path}/tfds --out {tmp_path}/out"
    program = f"-m experiments.train --config kmnist_cnn_sgd {options}"
    found = subprocess.run(
        [sys.executable, *program.split()],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join((str(tmp_path), str(HOUSE)))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    report = (tmp_path / "out/report.md").read_text(encoding="utf-8")
    assert "Kuzushiji-MNIST" in report
    assert "tensorflow_datasets kmnist/3.0.1" in report


def test_every_data_set_of_a_config_is_in_the_catalogue_and_says_what_it_is():
    for row in rows.ROWS.values():
        found = catalogue.named(row.experiment.dataset)
        assert found.things in ("images", "texts")
        assert (found.least_length > 0) == (found.things == "texts")
    for name, found in catalogue.DATASETS.items():
        assert found.name == name
        assert found.title == catalogue.title(name)
    assert catalogue.title("another") == "another"


@pytest.mark.parametrize("room", ["training", "results", "models", "costs", "shell"])
def test_no_room_names_a_data_set(room):
    names = "|".join(map(re.escape, catalogue.DATASETS.keys() - {"digits"}))
    for path in (HOUSE / "experiments" / room).rglob("*.py"):
        found = re.findall(rf'"(?:{names})"', path.read_text(encoding="utf-8"))
        assert not found, path
