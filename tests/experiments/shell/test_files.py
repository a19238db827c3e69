"""Files: valid JSON, replaced in one go, and no names of machines."""

import getpass
import json
import socket

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.shell import files


def test_numbers_become_plain_and_nan_becomes_null(tmp_path):
    path = tmp_path / "new" / "a.json"
    content = {
        "array": jnp.array([1.5, jnp.nan, jnp.inf]),
        "scalar": np.float64("nan"),
        "nested": ({"n": np.int32(3), "yes": True, "text": "a [ b", "none": None},),
        7: [],
    }
    files.write_json(path, content)
    text = path.read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {
        "array": [1.5, None, None],
        "scalar": None,
        "nested": [{"n": 3, "yes": True, "text": "a [ b", "none": None}],
        "7": [],
    }
    assert '"array": [1.5, null, null]' in text


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(TypeError, match="not JSON serializable"):
        files.write_json(path, {"a": object()})

    def killed(old, new):
        raise KeyboardInterrupt("killed before the replacement")

    monkeypatch.setattr(files.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt, match="before the replacement"):
        files.write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}


def test_the_machine_is_described_without_names():
    described = json.dumps([files.machine(), files.versions()])
    assert (files.machine()["cores"] or 0) >= 1
    assert files.versions()["jax"]
    for private in (socket.gethostname(), getpass.getuser(), "/"):
        assert f'"{private}"' not in described
    assert "/home" not in described
