"""How fast batches come beside the step that takes them, as a table."""

from collections.abc import Mapping
from typing import Any

HEADERS = ("config", "pipeline, examples/s", "step, examples/s", "times")

Content = Mapping[str, Any]


def table(content: Content) -> list[tuple[str, ...]]:
    """One row of cells per config, under HEADERS."""
    return [
        (
            name,
            f"{entry['pipeline']:,.0f}",
            f"{entry['step']:,.0f}",
            f"{entry['times']['median']:.0f} "
            f"[{entry['times']['lower_quartile']:.0f}, "
            f"{entry['times']['upper_quartile']:.0f}]",
        )
        for name, entry in content["configs"].items()
    ]
