"""The version and its date are the same everywhere, and the version is in one place."""

import importlib.metadata
import re
from pathlib import Path

import ksam_jax

ROOT = Path(__file__).parent.parent


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_citation_and_the_newest_changes_are_of_this_version():
    newest = re.search(r"^## \[(.+?)\] - (\S+)$", read("CHANGELOG.md"), re.MULTILINE)
    assert newest is not None
    version, date = newest.groups()
    assert version == ksam_jax.__version__
    citation = read("CITATION.cff").splitlines()
    assert f"version: {version}" in citation
    assert f"date-released: {date}" in citation


def test_what_is_installed_has_the_version_of_the_code():
    assert 'dynamic = ["version", "readme"]' in read("pyproject.toml")
    assert importlib.metadata.version("ksam_jax") == ksam_jax.__version__


def test_no_link_of_the_description_is_relative():
    """That is what the package index shows, and it has no other files."""
    text = importlib.metadata.distribution("ksam_jax").read_text("METADATA")
    links = re.findall(r"\]\(([^)]+)\)", str(text))
    assert len(links) > 10
    assert all(link.startswith(("https://", "#")) for link in links)
