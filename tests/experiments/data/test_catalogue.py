"""Datasets: the digits as scikit-learn has them; TFDS's by folder."""

import json

import numpy as np
import pytest

from experiments.data import catalogue, images
from experiments.shell.cli import UsageError


def test_digits(digits):
    assert (digits.size, digits.shape, digits.classes) == (1797, (8, 8, 1), 10)
    examples = digits.fetch(np.array([5, 0]))
    assert examples.inputs.shape == (2, 8, 8, 1)
    assert examples.labels.tolist() == [5, 0]
    # The first row of the first digit, as the data set's page prints it.
    assert examples.inputs[1, 0, :, 0].tolist() == [0, 0, 5, 13, 9, 1, 0, 0]
    assert digits.official_test is None


@pytest.mark.parametrize("name", [name for name in catalogue.IN_MEMORY if name != "digits"])
def test_missing_data_names_the_folder_and_the_command(tmp_path, name):
    with pytest.raises(UsageError, match="is not prepared in") as caught:
        catalogue.load(name, tmp_path)
    line = str(caught.value)
    assert f"tfds build {name} --file_format array_record --data_dir {tmp_path}" in line
    assert "\n" not in line


def test_a_dataset_that_nobody_knows_is_told_with_those_that_are_known():
    with pytest.raises(UsageError, match=r"unknown dataset 'cifar11'.*mean 'cifar10'"):
        catalogue.load("cifar11")


@pytest.mark.parametrize(
    ("image", "lossy"),
    [({"encodingFormat": "jpeg"}, True), ({"encodingFormat": "png"}, False), ({}, False)],
)
def test_jpeg_is_recognized_by_what_was_written(tmp_path, image, lossy):
    features = {"featuresDict": {"features": {"image": {"image": image}}}}
    (tmp_path / "features.json").write_text(json.dumps(features))
    assert images.is_jpeg(tmp_path) is lossy
