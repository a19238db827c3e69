"""Where the user's own line is, for a warning to point at."""

import os
import sys
from types import FrameType

import jax
import jaxtyping
import optax

_OURS = os.path.dirname(os.path.dirname(__file__))
_BELOW = (_OURS, *jax.__path__, *optax.__path__, *jaxtyping.__path__)
# Around a transformation, if they are there.
_AROUND = ("flax", "equinox", "haiku")


def level_of_user(here: FrameType) -> int:
    """The `stacklevel` of the line, outside of libraries, that asked for the step.

    For a warning that is given in the frame `here`.
    """
    around = [path for name in _AROUND if name in sys.modules for path in _folders(name)]
    # The last is what type checkers generate.
    libraries = (*(os.path.join(path, "") for path in (*_BELOW, *around)), "<@")
    frame: FrameType | None = here
    level = 1
    while frame is not None and frame.f_code.co_filename.startswith(libraries):
        frame, level = frame.f_back, level + 1
    return level


def _folders(name: str) -> list[str]:
    return list(getattr(sys.modules[name], "__path__", ()))
