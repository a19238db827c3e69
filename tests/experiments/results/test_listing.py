"""The list of named experiments, and the details of one."""

import io

import pytest
from rich.console import Console

from experiments.configs.rows import ROWS
from experiments.results import listing


def text(width):
    file = io.StringIO()
    listing.show(Console(file=file, width=width), ROWS.values())
    return file.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_the_list_has_every_name_and_fits(width):
    lines = text(width).splitlines()
    assert max(map(len, lines)) <= width
    starts = [line.split()[0] for line in lines if line]
    assert [word for word in starts if word in ROWS] == list(ROWS)


def test_the_list_has_figures_sources_and_what_a_family_shares():
    lines = text(120).splitlines()
    heading = lines.index(
        "CIFAR-100, WRN-28-10: 200 epochs, batch 256, crop 4, flip",
    )
    family = "\n".join(lines[heading : lines.index("", heading)])
    assert "83.50 ± 0.20 [2]" in family
    assert "82.71        [3]" in family
    assert "[2] Foret et al., ICLR 2021 (SAM): test error 16.5 ± 0.2 %" in family
    assert "[3] An independent rerun" in family
    assert any(
        line.startswith("MNIST, small CNN (16-32): 1,000 training examples, 40 epochs")
        for line in lines
    )


def test_details_have_origin_and_expectation():
    lines = listing.details(ROWS["cifar100_resnet18_sam"]).splitlines()
    assert lines[0].startswith("cifar100_resnet18_sam: SAM; CIFAR-100, ResNet-18: 200")
    assert lines[1].startswith("Expected: 80.18 ± 0.08 %. Baselines of ESAM's group")
    assert lines[2] == f"Origin: {ROWS['cifar100_resnet18_sam'].origin}"
    assert "neither published nor ours" in listing.details(ROWS["digits_sgd"])
