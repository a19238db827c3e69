"""Every example of the docs runs as it is, is short, and learns."""

import re
import runpy
from pathlib import Path

import jax
import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "docs" / "examples").glob("*.py"))
# What the worst of them reaches by far, and what guessing doesn't.
LEAST = 0.75


def test_all_that_are_promised_are_there():
    assert [path.stem for path in EXAMPLES] == [
        "equinox_mlp",
        "finetune_adamw",
        "flax_linen",
        "flax_nnx",
        "float16_loss_scale",
        "label_noise",
        "plain_functions",
    ]


# In `make test`; the others are as long, and CI runs them too.
QUICK = "plain_functions"


def examples():
    for path in EXAMPLES:
        marks = () if path.stem == QUICK else pytest.mark.slow
        yield pytest.param(path, id=path.stem, marks=marks)


@pytest.mark.parametrize("path", list(examples()))
def test_an_example_is_short_and_learns(path, capsys):
    assert len(path.read_text().splitlines()) < 80
    with jax.numpy_dtype_promotion("standard"):
        runpy.run_path(str(path), run_name="__main__")
    found = re.findall(r"test accuracy (\d\.\d+)", capsys.readouterr().out)
    assert found
    assert all(float(accuracy) > LEAST for accuracy in found)
