"""What a release needs is there, and the program that looks for it sees what is missing."""

import functools
import importlib.metadata
import json
import re
import subprocess
import tomllib
import zipfile
from pathlib import Path

import pytest
import release
from packaging.requirements import Requirement

import ksam_jax

ROOT = Path(__file__).parent.parent
read = functools.partial(release.read, ROOT)


def test_the_citation_and_the_newest_changes_are_of_this_version():
    newest = re.search(r"^## \[(.+?)\] - (\S+)$", read("CHANGELOG.md"), re.MULTILINE)
    assert newest is not None
    version, date = newest.groups()
    assert version == ksam_jax.__version__ == release.version_of(ROOT)
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


@pytest.mark.parametrize("check", [release.wrong_links, release.wrong_addresses])
def test_links_and_badges_within_the_repository_find_what_they_name(check):
    assert list(check(ROOT)) == []


def paragraphs(name: str) -> list[str]:
    return [each for each in re.split(r"\n(?=#)", read(name)) if "pip install" in each]


def installed_by(text: str) -> list[Requirement]:
    """What the commands ask for, a clone's folder taken for the package."""
    lines = re.findall(r"pip install (?:--quiet )?([^`\n#]+)", text)
    words = " ".join(lines).replace('"', "").split()
    mine = [re.sub(r"^\.(/ksam_jax)?(?=\[|$)", "ksam_jax", word) for word in words]
    return [Requirement(word) for word in mine if word.startswith("ksam_jax")]


WITH_COMMANDS = [
    name
    for name in release.texts(ROOT)
    if name != "CHANGELOG.md" and installed_by(read(name))
]


def test_the_pages_that_install_are_found():
    notebooks = {f"notebooks/{path.name}" for path in ROOT.glob("notebooks/*.ipynb")}
    assert {"README.md", "docs/how-to/flax.md", "docs/sharpness.md"} | notebooks <= set(
        WITH_COMMANDS
    )


@pytest.mark.parametrize("name", WITH_COMMANDS)
def test_beside_a_command_that_installs_stands_where_the_package_is(name):
    extras = tomllib.loads(read("pyproject.toml"))["project"]["optional-dependencies"]
    for text in paragraphs(name):
        for asked in installed_by(text):
            assert asked.extras <= set(extras)
        if re.search(r'pip install[^\n]*["` ]ksam_jax', text):
            assert release.NOT_YET in text or "[is installed](" in text


def test_a_clone_is_what_the_first_page_and_the_notebooks_install():
    assert re.search(r"^pip install \. ", read("README.md"), re.MULTILINE)
    assert '--8<-- "README.md:install"' in read("docs/index.md")
    for path in ROOT.glob("notebooks/*.ipynb"):
        text = read(f"notebooks/{path.name}")
        (asked,) = installed_by(text)
        code = path.read_text(encoding="utf-8")
        assert f'NEEDED = \\"{asked}' in code
        assert text.index(release.NOT_YET) < text.index("./ksam_jax")


# A project in which nothing is missing, file by file.
ADDRESS = "https://github.com/somebody/ksam_jax"
NOTEBOOK = {
    "cells": [
        {"cell_type": "code", "source": ["# no heading"]},
        {"cell_type": "markdown", "source": [f"# One\n[x]({ADDRESS}/blob/main/README.md)"]},
    ]
}
FILES = {
    "ksam_jax/__init__.py": '__version__ = "1.2.0"\n',
    "pyproject.toml": f'[project]\n[project.urls]\nRepository = "{ADDRESS}"\n',
    "CHANGELOG.md": "## [Unreleased]\n\n## [1.2.0] - 2030-01-02\n\n- A.\n",
    "CITATION.cff": "version: 1.2.0\ndate-released: 2030-01-02\n",
    "README.md": "# `A b`: c\n[t](docs/page.md#what-it-is) [x](nb.ipynb#one) [y](#a-b-c)",
    "docs/page.md": "## What [it](x.md) is\n![p](../p.png) [web](https://a.b/c)",
    "docs/x.md": "",
    "p.png": "",
    "nb.ipynb": json.dumps(NOTEBOOK),
}


@pytest.fixture
def project(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    for command in (["init", "--quiet"], ["add", "."]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    build(tmp_path, "[a](https://b.c)")
    return tmp_path


def build(root: Path, description: str) -> None:
    (root / "dist").mkdir(exist_ok=True)
    (root / "dist" / "ksam_jax-1.2.0.tar.gz").write_text("")
    wheel = root / "dist" / "ksam_jax-1.2.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as opened:
        opened.writestr("ksam_jax-1.2.0.dist-info/METADATA", description)


def test_nothing_stands_against_a_project_that_has_it_all(project, capsys):
    assert release.main(project) == 0
    said = capsys.readouterr().out
    assert said.count("[ok]") == len(release.CHECKS)
    assert "placeholder" not in said
    assert "Tag v1.2.0" in said


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("ksam_jax/__init__.py", '__version__ = "1.3.0"', r"must be \[1\.3\.0\]"),
        ("ksam_jax/__init__.py", '__version__ = "1.3.0"', r"must say version: 1\.3\.0"),
        (
            "ksam_jax/__init__.py",
            '__version__ = "1.3.0"',
            r"-1\.3\.0\.tar\.gz: isn't there",
        ),
        (
            "ksam_jax/__init__.py",
            '__version__ = "1.3.0"',
            r"not of version 1\.3\.0; remove",
        ),
        (
            "CHANGELOG.md",
            "## [Unreleased]\n- B.\n## [1.2.0] - 2030-01-02",
            r"\[Unreleased\]",
        ),
        ("CHANGELOG.md", "## [1.2.0]\n", r"\[1\.2\.0\] has no date"),
        ("CHANGELOG.md", "## [1.2.0] - 2031-01-02\n", "date-released: 2031-01-02"),
        ("README.md", "![p](q.png)", r"README\.md: links to q\.png, which isn't there"),
        ("README.md", "[p](docs/page.md#what-is)", r"docs/page\.md#what-is, which has no"),
        ("docs/page.md", "[p](README.md)", r"docs/page\.md: links to README\.md"),
        ("nb.ipynb", '{"cells": []}', r"nb\.ipynb#one, which has no such heading"),
        ("README.md", f"({ADDRESS}/blob/main/gone.md)", r"names gone\.md in somebody/"),
        ("README.md", "(https://x.y/github/other/ksam_jax)", "names other/ksam_jax, and"),
    ],
)
def test_what_is_missing_is_named(project, capsys, name, text, found):
    (project / name).write_text(text)
    assert release.main(project) == 1
    assert re.search(found, capsys.readouterr().out)


def test_a_relative_link_in_the_wheels_description_is_named(project):
    build(project, "[a](docs/page.md) [b](#c)")
    (found,) = release.wrong_dist(project)
    assert found.endswith("its description links to docs/page.md, which it hasn't")


def test_a_placeholder_and_what_to_take_out_are_left_for_a_person(project):
    for name in ("pyproject.toml", "nb.ipynb"):
        text = FILES[name].replace(ADDRESS, release.PLACEHOLDER)
        (project / name).write_text(text)
    (project / "README.md").write_text(f"It {release.NOT_YET}.")
    first, *_, last = release.for_a_person(project)
    assert "is a placeholder" in first
    assert first.endswith("change it in nb.ipynb, pyproject.toml")
    assert last.endswith(f"{release.NOT_YET}: README.md")
