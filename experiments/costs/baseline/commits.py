"""The library of another commit, as files in a temporary folder."""

import io
import subprocess
import tarfile
from pathlib import Path

from experiments.shell.cli import RunError, UsageError

LIBRARY = "ksam_jax"


def resolved(root: Path, commit: str) -> str:
    """The commit's whole name.

    Args:
      root: the project's folder.
      commit: as git takes it: a hash or its beginning, a tag, a branch, HEAD~3.

    Raises:
      UsageError: if the folder isn't a git checkout, or the commit isn't in it, or has no
        library.
    """
    _check_checkout(root)
    # What begins with a dash would be an option of git's.
    name = "" if commit.startswith("-") else f"{commit}^{{commit}}"
    found = _git(root, "rev-parse", "--verify", "--quiet", name)
    if found.returncode:
        raise UsageError(
            f"--baseline must be a commit of this checkout; got {commit!r}: git log shows "
            f"them, and git fetch --unshallow gets those that a shallow clone lacks"
        )
    whole = found.stdout.decode().strip()
    if _git(root, "cat-file", "-e", f"{whole}:{LIBRARY}/__init__.py").returncode:
        raise UsageError(
            f"--baseline must be a commit that has {LIBRARY}/__init__.py; {commit!r} has "
            f"none: name a later one"
        )
    return whole


def _check_checkout(root: Path) -> None:
    try:
        found = _git(root, "rev-parse", "--show-toplevel")
    except FileNotFoundError as error:
        raise UsageError("--baseline needs git, which isn't there: install it") from error
    # A checkout of something else may be around an installed copy.
    if found.returncode or Path(found.stdout.decode().strip()).resolve() != root.resolve():
        raise UsageError(
            "--baseline needs a git checkout of the project, and this copy is none: clone "
            "the repository, and start the benchmark in its folder"
        )


def current(root: Path) -> str:
    """The commit that is checked out, with "-dirty" if files of it are changed."""
    found = _git(root, "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty")
    if found.returncode:
        raise RunError(f"git can't name this commit: {found.stderr.decode().strip()}")
    return found.stdout.decode().strip()


def export(root: Path, commit: str, folder: Path) -> None:
    """Writes the commit's library, and nothing else of it, into the folder."""
    found = _git(root, "archive", "--format=tar", commit, LIBRARY)
    if found.returncode:
        raise RunError(f"git can't read {commit}: {found.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(found.stdout)) as archive:
        archive.extractall(folder, filter="data")


def _git(root: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["git", "-C", str(root), *words], capture_output=True, check=False
    )
