"""The two builds, each with a process of its own that can be asked."""

import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import ksam_jax
from experiments.costs.baseline import commits
from experiments.costs.baseline.worker import OK
from experiments.shell.cli import RunError

NEW, BASELINE = "new", "baseline"
# Of experiments: these are the same for both builds.
HOME = Path(__file__).parents[3]
# Two processes share an accelerator's memory: none may take most of it in advance.
SHARED = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


class FailedError(Exception):
    """A build couldn't do what it was asked for; the text is its error's."""


class Build:
    """A process with one build. Use as a context manager."""

    def __init__(self, name: str, library: Path, folder: Path | None = None):
        """Starts the process.

        Args:
          name: for messages.
          library: the folder that has the build's ksam_jax.
          folder: what the process removes at its end; None: nothing.
        """
        self.name = name
        after = [path for path in [os.environ.get("PYTHONPATH")] if path]
        path = os.pathsep.join([str(library), str(HOME), *after])
        words = ["-P", "-m", "experiments.costs.baseline.worker", str(library)]
        self._process = subprocess.Popen(
            [sys.executable, *words, *([str(folder)] if folder else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | SHARED | {"PYTHONPATH": path},
        )

    def ask(self, name: str, *args: Any) -> Any:
        """What the method of that name of `Bench` returns there.

        Raises:
          FailedError: if it raises.
          RunError: if the process is gone.
        """
        given, found = self._process.stdin, self._process.stdout
        assert given is not None
        assert found is not None
        try:
            # Twice: the process must have its library before it knows the classes within.
            pickle.dump(pickle.dumps((name, args)), given)
            given.flush()
            status, result = pickle.load(found)
        except (EOFError, OSError) as error:
            ended = self._process.wait()
            raise RunError(
                f"the process of the {self.name} build is gone, with status {ended}; "
                f"-9 is often too little memory"
            ) from error
        if status != OK:
            raise FailedError(result)
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        del error, trace
        if kind is not None:
            self._process.kill()
        # Closes stdin, at which the process ends, and waits for it.
        with suppress(BrokenPipeError):
            self._process.__exit__(None, None, None)


def here() -> Path:
    """The folder that has the ksam_jax of this process."""
    return Path(ksam_jax.__file__).parents[1]


@contextmanager
def both(root: Path, commit: str) -> Iterator[Mapping[str, Build]]:
    """This build and that of a commit of the checkout in `root`, by name."""
    folder = Path(tempfile.mkdtemp(prefix="ksam-baseline-"))
    try:
        # Before there is anything in it: from here on the process removes it at its end.
        with Build(BASELINE, folder, folder) as baseline:
            commits.export(root, commit, folder)
            with Build(NEW, here()) as new:
                yield {NEW: new, BASELINE: baseline}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
