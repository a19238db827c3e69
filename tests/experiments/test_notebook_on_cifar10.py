"""The notebook that compares methods, switched to CIFAR-10: a few small images of noise."""

import io
import json
from pathlib import Path

import nbformat
import numpy as np
import pytest
import tiny_tfds
from nbclient import NotebookClient
from PIL import Image

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "reproduce_ksam.ipynb"
TRAIN, TEST = 20, 20
# What is switched by hand, and what makes it quick: one seed, one step, a narrow network.
CHANGES = {
    'DATASET = "digits"': 'DATASET = "cifar10"',
    "DATA_DIR = None": "DATA_DIR = {folder!r}",
    "SEEDS = 5": "SEEDS = 1",
    "BATCH = 128": "BATCH = 16",
    '"cifar10": (cnn_init, cnn, 20)': '"cifar10": (cnn_init, cnn, 1)',
    "[(3, 64), (64, 128), (128, 256)]": "[(3, 8), (8, 8), (8, 256)]",
    "range(30)": "range(1)",
}


def png(rng: np.random.Generator) -> bytes:
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def prepared(folder: Path) -> None:
    """As TFDS leaves it after preparing CIFAR-10."""
    rng = np.random.default_rng(0)
    features = {
        "id": tiny_tfds.text(),
        "image": tiny_tfds.image((32, 32, 3), "png"),
        "label": tiny_tfds.class_label(10),
    }
    splits = {
        name: [
            {"id": f"{name}_{i}", "image": png(rng), "label": int(rng.integers(10))}
            for i in range(n)
        ]
        for name, n in (("train", TRAIN), ("test", TEST))
    }
    tiny_tfds.write(folder, "cifar10", "3.0.2", features, splits)


def in_json(code: str) -> str:
    return json.dumps(code)[1:-1]


@pytest.mark.slow
def test_it_runs_to_its_end(tmp_path):
    prepared(tmp_path)
    text = NOTEBOOK.read_text(encoding="utf-8")
    for old, new in CHANGES.items():
        assert text.count(in_json(old)) == 1, old
        text = text.replace(in_json(old), in_json(new.format(folder=str(tmp_path))))
    notebook = nbformat.reads(text, as_version=4)
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    printed = "".join(
        output.text
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if output.output_type == "stream"
    )
    assert f"{TRAIN} training examples of shape (32, 32, 3)" in printed
    assert f"{TEST} test examples" in printed
    assert printed.count("K-SAM, k = 1/4") == 2
