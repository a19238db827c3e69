"""Checkpoints through Orbax: written in the background, checked when they are read.

A checkpoint is a folder that appears whole or not at all. The last two are kept, so that
there is one before the last, and the best; see `Checkpoints.save`.
"""

import contextlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from jaxtyping import PyTree

from experiments.shell.cli import UsageError
from experiments.training.harness import storage
from experiments.training.harness.checkpoint_verification import difference, digest

SCORE = "score"
# Two: if the last one is damaged, there is one before it.
LATEST = 2


class Restored(NamedTuple):
    """A checkpoint as it was saved.

    Attributes:
      step: how many steps had been done.
      state: what training carries.
      about: what was saved beside it.
    """

    step: int
    state: PyTree
    about: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run, in a folder of their own.

    Use as a context manager; leaving it waits for what is being written.
    """

    def __init__(self, folder: Path):
        import orbax.checkpoint as ocp
        from orbax.checkpoint.checkpoint_managers import preservation_policy as keep

        # Their threads log, over pages, what is raised afterwards.
        for name in ("absl", "asyncio"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._ocp, self.folder = ocp, folder
        self._best, self._stack = storage.Best(), contextlib.ExitStack()
        policies: list[Any] = [keep.LatestN(LATEST), self._best]
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=keep.AnyPreservationPolicy(policies)
            ),
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "about": ocp.JsonCheckpointHandler(),
            },
        )
        for step in self.steps():
            # What is damaged isn't the best, and is told of when it is restored.
            with contextlib.suppress(Exception):
                about = self._item(step, "about", ocp.args.JsonRestore())
                self._best.note(step, about[SCORE])

    def __enter__(self) -> Self:
        self._stack.enter_context(storage.without_echoes())
        self._stack.push(self._close)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def _close(self, kind: type[BaseException] | None, *error: object) -> None:
        del error
        # What went wrong first is what is said; closing would say the same once more.
        with storage.as_os_error() if kind is None else contextlib.suppress(Exception):
            self._manager.close()

    def save(
        self, step: int, state: PyTree, about: Mapping[str, Any], score: float | None
    ) -> None:
        """Begins to write a checkpoint; the state may be changed or given away at once.

        Args:
          step: how many steps are done.
          state: what training carries; all processes call this with theirs.
          about: for JSON.
          score: how good it is; None if it wasn't looked at. Higher is better, the highest
            is kept.

        Raises:
          OSError: if this one or the one before can't be written.
        """
        args = self._ocp.args
        checked = {"digest": digest(state), SCORE: score, **about}
        items = args.Composite(state=args.StandardSave(state), about=args.JsonSave(checked))
        storage.check_room(self.folder, state)
        self._best.note(step, score)
        with storage.as_os_error():
            if not self._manager.save(step, args=items):
                raise RuntimeError(f"Orbax refused to save step {step}")

    def wait(self) -> None:
        """Waits until all is written.

        Raises:
          OSError: if it can't be.
        """
        with storage.as_os_error():
            self._manager.wait_until_finished()

    def steps(self) -> list[int]:
        """Of the checkpoints there are, the last one first."""
        return sorted(self._manager.all_steps(read=True), reverse=True)

    def restore(
        self, like: PyTree, check: Callable[[Mapping[str, Any]], None], warn: Any
    ) -> Restored | None:
        """The last checkpoint that isn't damaged; None if there is no checkpoint.

        Args:
          like: shapes, types and places of the state.
          check: is given what was saved beside the state, and raises a UsageError if it
            is of something else.
          warn: is told of damaged ones, in a sentence.

        Raises:
          UsageError: if all are damaged, or one is of another model.
        """
        steps = self.steps()
        for step in steps:
            found = self._restored_or_reason(step, like, check)
            if isinstance(found, Restored):
                return found
            warn(
                f"checkpoint {self.folder / str(step)} is damaged ({found}): going back to "
                f"the one before it"
            )
        if steps:
            raise UsageError(
                f"all checkpoints in {self.folder} are damaged: delete that folder to "
                f"start again"
            )
        return None

    def forget(self, step: int) -> None:
        """Deletes checkpoints of later steps, damaged ones: they are written anew."""
        for later in [s for s in self.steps() if s > step]:
            self._manager.delete(later)

    def read(self, step: int, like: PyTree) -> Restored:
        """This very checkpoint."""
        return self._restored(step, like, lambda about: None)

    def _restored_or_reason(
        self, step: int, like: PyTree, check: Callable[[Mapping[str, Any]], None]
    ) -> Restored | str:
        """The checkpoint, or what is wrong with it."""
        try:
            return self._restored(step, like, check)
        except UsageError:
            raise
        # A truncated file gives any of a dozen errors, by where it was cut.
        except Exception as error:
            reason = _first_line(error)
        storage.let_end()
        return reason

    def _restored(
        self, step: int, like: PyTree, check: Callable[[Mapping[str, Any]], None]
    ) -> Restored:
        args = self._ocp.args
        about = self._item(step, "about", args.JsonRestore())
        check(about)
        self._check_shapes(step, like)
        state = self._item(step, "state", args.StandardRestore(like))
        if digest(state) != about["digest"]:
            raise ValueError("its numbers aren't those that were saved")
        return Restored(step, state, about)

    def _item(self, step: int, name: str, how: Any) -> Any:
        found = self._manager.restore(step, args=self._ocp.args.Composite(**{name: how}))
        return found[name]

    def _check_shapes(self, step: int, like: PyTree) -> None:
        """Raises a UsageError if the arrays are those of another model or method."""
        there = self._manager.item_metadata(step)["state"].tree
        if found := difference(there, like):
            raise UsageError(
                f"checkpoint {self.folder / str(step)} is of another model, method or "
                f"version of this program: {found}; start anew with another --out"
            )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
