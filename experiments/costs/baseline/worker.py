"""A process that has one build of the library, and runs what it is asked to.

python -P -m experiments.costs.baseline.worker LIBRARY [FOLDER]

LIBRARY is the folder with the build's ksam_jax, which must be first in PYTHONPATH. Requests
and replies are pickles through stdin and stdout. When there are no more requests, since who
asks has ended or was killed, the temporary FOLDER is removed: whoever is killed can't.
"""

import importlib
import os
import pickle
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

OK, FAILED = "ok", "failed"


class MissingError(Exception):
    """The build's library lacks something that is asked for."""


def main(library: str, folder: str | None = None) -> None:
    """Answers until there is nothing more to answer."""
    # Who asks is told, too, and closes stdin.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    replies = os.fdopen(os.dup(1), "wb")
    # What anyone prints is no reply.
    os.dup2(2, 1)
    try:
        serve(sys.stdin.buffer, replies, library)
    except BrokenPipeError:
        pass
    finally:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def serve(requests: IO[bytes], replies: IO[bytes], library: str) -> None:
    """Reads (name of a method of `Bench`, arguments) and writes (OK or FAILED, result)."""
    bench = None
    while True:
        try:
            request = pickle.load(requests)
        except EOFError:
            return
        try:
            # Not before the first request: until then the library may not be there.
            bench = bench or _bench(library)
            name, args = pickle.loads(request)
            reply = OK, getattr(bench, name)(*args)
        except Exception as error:
            said = str(error).strip() or "no words"
            reply = FAILED, f"{type(error).__name__}: {said.splitlines()[0]}"
        pickle.dump(reply, replies)
        replies.flush()


def _bench(library: str) -> Any:
    """What steps are compiled and run with; imports the build's library."""
    # The folder was empty when Python looked into it first.
    importlib.invalidate_caches()
    import ksam_jax

    found = Path(ksam_jax.__file__).parents[1]
    if found.resolve() != Path(library).resolve():
        raise ImportError(f"ksam_jax is that in {found}, not that in {library}")
    # So that rows of the table that an older library can't make are no error until used.
    if not hasattr(ksam_jax, "__getattr__"):
        vars(sys.modules["ksam_jax"])["__getattr__"] = _missing
    from experiments.costs.baseline.bench import Bench

    return Bench()


def _missing(name: str) -> Callable[..., Any]:
    if name.startswith("__"):
        raise AttributeError(name)

    def call(*args: Any, **options: Any) -> Any:
        del args, options
        raise MissingError(f"ksam_jax has no {name}")

    return call


if __name__ == "__main__":
    main(*sys.argv[1:])
