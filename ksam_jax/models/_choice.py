"""Which form a loss takes, by what was seen of its model; and what can't be seen."""

import sys
import warnings

from ..checks._user import level_of_user
from ._meeting import Meeting

EXAMPLES, ROWS, BATCH = "examples", "rows", "batch"


def chosen_form(
    call: str, meeting: Meeting, writes: bool, draws_by_row: bool, per_example: bool | None
) -> str:
    """The form that is right for whatever meets in the model.

    Args:
      call: as the user typed it.
      meeting: what was seen of the rows.
      writes: whether a pass writes anything, which is then of the whole batch.
      draws_by_row: whether rows that meet in BatchNorm alone can draw with own keys.
      per_example: what the user says about it; None: nothing.
    """
    if per_example is not None:
        return EXAMPLES if per_example else BATCH
    if meeting.coupled:
        return BATCH
    if not meeting.known:
        warnings.warn(_unknown(call), stacklevel=level_of_user(sys._getframe()))
        return BATCH
    if writes or meeting.normalized:
        return ROWS if draws_by_row else BATCH
    return EXAMPLES


def _unknown(call: str) -> str:
    return (
        f"{call}: whether a layer looks at other examples of the batch, as BatchNorm does, "
        f"can't be seen in the model's trace, so it is run on the batch as a whole, which "
        f"is right if one does; pass per_example=True if none does (cheaper where examples "
        f"are chosen, and each has dropout of its own), or per_example=False to say that "
        f"one may."
    )
