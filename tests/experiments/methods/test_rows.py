"""A method is one row: nobody else has to hear of it, unless it is told of on purpose."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from experiments.methods import METHODS

HOUSE = Path(__file__).parents[3]
ROW = """    Method(
        "sam_twice",
        "SAM at twice the radius",
        partial(ksam_jax.sam, rho=0.1),
        colour=GREEN,
        marker="o",
        by_default=False,
        cost=Cost(ksam_jax.sam, lambda _: 6, colour=GREEN, traffic=TOGETHER),
        words=Words("`sam(rho=0.1)`", "all", "all"),
        explained=("SAM at twice the radius goes twice as far",),
    ),
)
"""
# What each reader of the table makes of the new row.
ASKED = """
from experiments.configs.options import BEFORE_SGD
from experiments.configs.spaces import LEARNING_RATE, space
from experiments.costs.benchmark.contenders import CONTENDERS
from experiments.costs.devices import spread
from experiments.methods import METHODS, explanations, from_known_to_ours, gradient
from experiments.racing import entries
from experiments.results import records

row = METHODS["sam_twice"]
assert list(METHODS)[-1] == "sam_twice"
assert "sam_twice" in BEFORE_SGD
assert set(space("sam_twice", LEARNING_RATE)) == set(row.hyperparameters)
assert CONTENDERS["sam_twice"].label == row.label
assert CONTENDERS["sam_twice"].cost.predicted(None, is_shared=False, has_aux=False) == 2
assert spread.METHODS["sam_twice"].label == row.label
assert [name for name, r in from_known_to_ours().items() if r.words][-1] == "sam_twice"
assert explanations(["sam_twice", "esam"])[1] == row.explained[0]
assert entries.mark("sam_twice", "sgd") == ("#009E73", "o")
assert callable(gradient(row, {}, 0, num_examples=8, num_steps=8).update)
print(row.label)
"""


def test_a_method_without_hyperparameters_of_its_own_is_one_row_in_one_file(tmp_path):
    shutil.copytree(HOUSE / "experiments", tmp_path / "experiments")
    table = tmp_path / "experiments/methods/variants.py"
    lines = table.read_text(encoding="utf-8")
    assert lines.endswith("    ),\n)\n")
    changed = lines.removesuffix(")\n") + ROW
    known = "from experiments.methods.cost import Cost"
    table.write_text(changed.replace(known, f"{known}, TOGETHER"), encoding="utf-8")
    found = subprocess.run(
        [sys.executable, "-c", ASKED],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join((str(tmp_path), str(HOUSE)))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.stdout, found.stderr) == ("SAM at twice the radius\n", "")


def test_names_of_rows_are_their_keys_and_ours_with_costs_have_shares_that_they_take():
    for name, row in METHODS.items():
        assert row.name == name
        if row.cost is not None and row.cost.make is not None:
            more = {"num_examples": 8} if row.remembers else {}
            assert callable(row.cost.made(row.cost.share, **more).update)
