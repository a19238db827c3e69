"""Prints the oldest versions that pyproject.toml allows, as constraints for pip.

Of what users install: the library and its extras, but for those that only build and test.
"""

import re
import sys
import tomllib
from pathlib import Path

OURS = ("experiments", "sharpness")


def main(path: str) -> None:
    """Prints a line for each requirement."""
    project = tomllib.loads(Path(path).read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(line for name in OURS for line in extras[name])]
    for line in sorted({line for line in wanted if not line.startswith("ksam_jax")}):
        # Anything else than a name and a lower bound would need thinking about.
        assert re.fullmatch(r"[\w-]+>=[\d.]+", line), line
        print(line.replace(">=", "=="))


if __name__ == "__main__":
    main(*sys.argv[1:])
