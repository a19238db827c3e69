"""Copies the comparison's figures from results.json into README.md.

Everything between the two marks in README.md is replaced, so that no figure there is
typed by hand. With --check nothing is written: the exit status says whether README.md
is up to date.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from experiments import cli, report

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"


@dataclass(frozen=True)
class Config:
    """Options of the copying."""

    readme: Annotated[Path, arg(metavar="FILE", help="The file to rewrite.")] = Path(
        "README.md"
    )
    results: Annotated[
        Path,
        arg(metavar="FILE", help="Where the figures are; comparison.png is beside it."),
    ] = Path("results/reference/digits/results.json")
    check: Annotated[
        bool, arg(help="Write nothing; exit status 1 if the README isn't up to date.")
    ] = False


def main(argv: Sequence[str] | None = None) -> int:
    """Rewrites or checks the README, and returns the exit status."""
    config = cli.parse(Config, argv, "python -m experiments.readme", __doc__ or "")
    content = _finished(config.results)
    old = _read(config.readme)
    picture = config.results.with_name("comparison.png")
    new = replaced(old, block(content, picture.as_posix()), config.readme)
    if new == old:
        print(f"{config.readme} is up to date")
        return 0
    if config.check:
        print(
            f"{config.readme} is stale: run python -m experiments.readme", file=sys.stderr
        )
        return 1
    config.readme.write_text(new, encoding="utf-8")
    print(f"rewrote the results in {config.readme}")
    return 0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise cli.UsageError(f"can't read {path}: {error.strerror}") from error


def _finished(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_read(path))
        complete = content["complete"]
    except (ValueError, KeyError, TypeError) as error:
        raise cli.UsageError(f"{path} is not a file of results") from error
    if not complete:
        raise cli.UsageError(f"{path} is of a run that wasn't finished")
    return content


def replaced(text: str, block: str, path: Path) -> str:
    """The text with `block` between the two marks."""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise cli.UsageError(f"{path} must have {BEGIN} and {END} once each")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{block}\n{END}{after}"


def block(content: Mapping[str, Any], picture: str) -> str:
    """The figures as Markdown."""
    parts = [
        f"**{report.title(content)}**",
        _table(report.headers(content), report.rows(content)),
        f"![Test accuracy against the cost of a training step]({picture})",
        _table(report.DIFFERENCE_HEADERS, report.difference_rows(content)),
        " ".join(report.notes(content)),
        _how(content),
    ]
    return "\n\n".join(parts)


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    aligned = ["---", *["---:"] * (len(headers) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headers, aligned, *rows))


def _how(content: Mapping[str, Any]) -> str:
    machine, versions = content["machine"], content["versions"]
    return (
        f"Hyperparameters: {content['search']}. Command: `{content['command']}` "
        f"({content['seconds'] / 60:.1f} minutes on {machine['cores']} cores, "
        f"{machine['cpu']}, {machine['system']}; Python {versions['python']}, "
        f"JAX {versions['jax']}; {content['date']})."
    )


if __name__ == "__main__":
    sys.exit(cli.run(main, None))
