"""Strict everywhere: promotion, shapes and types of the library's own annotations."""

import os
from collections.abc import Mapping
from pathlib import Path

import jax
import pytest
import shares
from hypothesis import settings
from jaxtyping import install_import_hook

# Tests compile far more than they compute; XLA reads this when it first compiles.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"
)

# Before the first import of the library, so that every annotation in it is checked.
install_import_hook("ksam_jax", "beartype.beartype")

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_platforms", "cpu")
# Virtual devices, for what runs on several; all else runs on the first of them.
jax.config.update("jax_num_cpu_devices", 8)

# Compilation makes the first example slow, and a deadline would only measure that.
settings.register_profile("ksam_jax", deadline=None, derandomize=True, max_examples=30)
settings.load_profile("ksam_jax")


@pytest.fixture(autouse=True)
def _clean_config():
    """A test that changes JAX's configuration must change it back."""
    names = ("jax_enable_x64", "jax_debug_nans", "jax_numpy_dtype_promotion")
    before = [getattr(jax.config, name) for name in names]
    yield
    assert [getattr(jax.config, name) for name in names] == before


_seconds: dict[str, float] = {}
_laps = shares.Laps()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-shares", choices=["all", "short"], help="tests/shares.py")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    folder = Path(__file__).parent.parent / "notebooks"
    for item in items:
        if item.path.parent == folder:
            item.add_marker(pytest.mark.slow)
    for item in shares.left_out(items, _known(config)):
        item.add_marker(pytest.mark.slow)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    report = yield
    if item.config.getoption("--write-shares"):
        report.duration = _laps.lap()
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    # A fixture's time is of all the tests that share it, and not of the first of them.
    if report.when == "call" and "slow" not in report.keywords:
        _seconds[report.nodeid] = report.duration


def pytest_sessionfinish(session: pytest.Session) -> None:
    # With several processes the first hears of all tests, and alone writes.
    is_first = not hasattr(session.config, "workerinput")
    if session.config.getoption("--write-shares") and is_first:
        shares.write(_seconds, _known(session.config))


def _known(config: pytest.Config) -> Mapping[str, int]:
    return {} if config.getoption("--write-shares") == "all" else shares.read()
