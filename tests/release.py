"""Checks what a release needs, and names what only a person can do.

Usage: `python tests/release.py`, after `make package` has left wheel and sdist in dist/ and
tried each in an empty environment; `make release-check` is both. Nothing is fetched.
"""

import json
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Stands for the address until there is one.
PLACEHOLDER = "https://github.com/ksam-jax/ksam_jax"
NOT_YET = "isn't on the package index yet"
KINDS = (".md", ".ipynb", ".toml", ".yml", ".cff")
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)\s]+)\)")
ADDRESS = re.compile(
    r"(?:github\.com|/github|usercontent\.com)/([\w-]+/ksam_jax)\b"
    r"(?:/(?:blob/|tree/)?main/([\w./-]*\w))?"
)
HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)


def read(root: Path, name: str) -> str:
    """A file's text, of a notebook that of its markdown; empty where there is none."""
    path = root / name
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if path.suffix != ".ipynb":
        return text
    cells = [each for each in json.loads(text)["cells"] if each["cell_type"] == "markdown"]
    return "\n\n".join("".join(each["source"]) for each in cells)


def texts(root: Path) -> dict[str, str]:
    """The pages and the files about the project that are committed."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=root, check=True, capture_output=True, text=True
    )
    names = [name for name in listed.stdout.split("\0") if Path(name).suffix in KINDS]
    return {name: read(root, name) for name in names}


def version_of(root: Path) -> str:
    """What the package says that it is."""
    found = re.search(r'^__version__ = "(.+)"$', read(root, "ksam_jax/__init__.py"), re.M)
    return found[1] if found else "?"


def repository_of(root: Path) -> str:
    """The address that the package index will show."""
    project = tomllib.loads(read(root, "pyproject.toml"))["project"]
    return project["urls"]["Repository"]


def wrong_changelog(root: Path) -> Iterator[str]:
    """Its newest section is of this version, and nothing waits above it."""
    version, text = version_of(root), read(root, "CHANGELOG.md")
    waiting = re.search(r"^## \[Unreleased\]\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    if waiting and waiting[1].strip():
        yield "CHANGELOG.md: entries are under [Unreleased]; give them version and date"
    sections = re.findall(r"^## \[(\d.*?)\](?: - (\d{4}-\d\d-\d\d))?$", text, re.M)
    if not sections or sections[0][0] != version:
        yield f"CHANGELOG.md: the newest section must be [{version}], as in __init__.py"
    elif not sections[0][1]:
        yield f"CHANGELOG.md: [{version}] has no date"


def wrong_citation(root: Path) -> Iterator[str]:
    """CITATION.cff has the version, and the changelog's date for it."""
    version, lines = version_of(root), read(root, "CITATION.cff").splitlines()
    if f"version: {version}" not in lines:
        yield f"CITATION.cff: must say version: {version}"
    dated = re.search(
        rf"^## \[{re.escape(version)}\] - (\S+)$", read(root, "CHANGELOG.md"), re.M
    )
    if dated and f"date-released: {dated[1]}" not in lines:
        yield f"CITATION.cff: must say date-released: {dated[1]}, as the changelog"


def wrong_dist(root: Path) -> Iterator[str]:
    """Wheel and sdist are of this version and of no other, and the wheel says so inside."""
    version = version_of(root)
    wheel = f"ksam_jax-{version}-py3-none-any.whl"
    wanted = {wheel, f"ksam_jax-{version}.tar.gz"}
    found = {path.name for path in (root / "dist").glob("*.*") if path.name[0] != "."}
    for name in sorted(wanted - found):
        yield f"dist/{name}: isn't there; run make package"
    for name in sorted(found - wanted):
        yield f"dist/{name}: is not of version {version}; remove it"
    if wheel in found:
        with zipfile.ZipFile(root / "dist" / wheel) as opened:
            inside = opened.read(f"ksam_jax-{version}.dist-info/METADATA").decode()
        for link in sorted(set(LINK.findall(inside))):
            if not link.startswith("#"):
                yield f"dist/{wheel}: its description links to {link}, which it hasn't"


def wrong_links(root: Path) -> Iterator[str]:
    """Links and pictures within the repository find what they name."""
    for name, text in texts(root).items():
        for link in sorted(set(LINK.findall(text))) if name[-3:] in (".md", "ynb") else ():
            path, _, anchor = link.partition("#")
            target = (root / name).parent / path if path else root / name
            if not target.exists():
                yield f"{name}: links to {link}, which isn't there"
            elif anchor and anchor not in anchors(read(target.parent, target.name)):
                yield f"{name}: links to {link}, which has no such heading"


def anchors(text: str) -> set[str]:
    """What the headings of a page are called in links."""
    plain = (re.sub(r"\[(.*?)\]\(.*?\)", r"\1", each) for each in HEADING.findall(text))
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in plain}


def wrong_addresses(root: Path) -> Iterator[str]:
    """Addresses and badges name pyproject.toml's repository, and files that it has."""
    mine = repository_of(root).removeprefix("https://github.com/")
    for name, text in texts(root).items():
        for repository, path in sorted(set(ADDRESS.findall(text))):
            if repository != mine:
                yield f"{name}: names {repository}, and pyproject.toml {mine}"
            elif not (root / path).exists():
                yield f"{name}: names {path} in {mine}, which isn't there"


CHECKS: dict[str, Callable[[Path], Iterator[str]]] = {
    "changelog": wrong_changelog,
    "citation": wrong_citation,
    "wheel and sdist": wrong_dist,
    "links and pictures": wrong_links,
    "addresses and badges": wrong_addresses,
}


def for_a_person(root: Path) -> Iterator[str]:
    """What no program here can do, in order."""
    address, version = repository_of(root), version_of(root)
    naming = [name for name, text in texts(root).items() if address in text]
    if address == PLACEHOLDER:
        yield (
            f"make a public repository: {address} is a placeholder. If it gets another "
            f"address, change it in {', '.join(naming)}"
        )
    if 'name: "The ksam_jax authors"' in read(root, "CITATION.cff"):
        yield "write the authors' names into CITATION.cff"
    yield "run make test-all on this commit, and the notebooks in Colab by their badges"
    yield f"look at the pages: make docs, then open site/. Tag v{version}"
    yield "see that the name ksam_jax is free on the package index, and upload dist/*"
    saying = [name for name, text in texts(root).items() if NOT_YET in text]
    if saying:
        yield f"then take out that the package {NOT_YET}: {', '.join(saying)}"


def main(root: Path = ROOT) -> int:
    """Prints each check with what it found; 1 if anything stands against a release."""
    print(f"ksam_jax {version_of(root)}")
    count = 0
    for title, check in CHECKS.items():
        found = list(check(root))
        count += len(found)
        print(f"[{'no' if found else 'ok'}] {title}", *found, sep="\n     ")
    print("\nLeft for a person:", *for_a_person(root), sep="\n  - ")
    print(f"\n{count} to put right first" if count else "\nNothing else stands against it")
    return int(count > 0)


if __name__ == "__main__":
    sys.exit(main())
