"""Several races as one table and one picture: our defaults beside the plain optimizer."""

import re
from pathlib import Path

import numpy as np

from experiments.racing import page, summary
from experiments.racing.contents import Race
from experiments.results.markdown import table
from experiments.results.plots import races
from experiments.results.report import counted

PICTURE = "races.png"
# What is shown of each, behind its baseline; the first of them in the table.
SHOWN = ("k_sam_following", "k_momentum_following")
HEADERS = (
    "data and network",
    "plain optimizer %",
    "`k_sam()` %",
    "difference, points",
    "examples",
    "time",
)


def markdown(*contents: Race, folder: str) -> str:
    """The picture, the table and the note, for the first page.

    Args:
      contents: of the races, the default methods in each.
      folder: of the first one's result file; the picture is beside it.
    """
    picture = f"![Validation accuracy against time]({Path(folder).parent / PICTURE})"
    rows = [_row(content) for content in contents]
    return "\n\n".join((picture, table(HEADERS, rows), note(contents)))


def _row(content: Race) -> tuple[str, ...]:
    found = summary.summarise(page.races_of(content), content["baseline"])
    base, ours = found[content["baseline"]], found[SHOWN[0]]
    shares = f"{ours.examples:.2f}", f"{np.median(ours.time):.2f}"
    ends = page.mean_score(base), page.mean_score(ours)
    return content["title"], *ends, page.difference(ours), *shares


def note(contents: tuple[Race, ...]) -> str:
    """What the columns are, and the commands."""
    seeds = "; ".join(f"{_short(c)}: {_seeds(c)}" for c in contents)
    machine = contents[0]["machine"]
    tables = " ".join(f"`--table {content['table']}`," for content in contents)
    return (
        f"Accuracy on validation examples at the end ({seeds}), all at the plain "
        f"optimizer's own settings; differences paired by seed, with 95% intervals where "
        f"there are several. Examples: the mean share that decided a step. Time: of "
        f"training alone, the plain optimizer's = 1, median, in turns on "
        f"one machine ({machine['cpu']}). Commands: `python -m "
        f"experiments.race` with {tables} which are whole in [Results]"
        f"(docs/results.md#at-sgds-own-settings); the picture: "
        f"`python -m experiments.figures`."
    )


def draw(*contents: Race, path: Path, source: str) -> None:
    """Writes the picture: the mean over the seeds, against the median time."""
    found = [
        (f"{_short(content)}, {_seeds(content)}", page.curves(content, _raced(content)))
        for content in contents
    ]
    about = (
        "Validation accuracy, %, against time, at the plain optimizer's settings\n"
        "(AdamW's on SST-2, SGD's on the others). Dashed: where it ends."
    )
    heading = "Beside the plain optimizer"
    races.together(found, path, title=heading, note=about, source=source)


def _raced(content: Race) -> list[str]:
    """Of what is shown: where k_momentum_sam doesn't climb it is k_sam, and isn't raced."""
    return [name for name in SHOWN if name in content["settings"]]


def _short(content: Race) -> str:
    """The name of the data set, and how many of its examples, if they are a part."""
    part = re.match(r"(.*?) \(([\d,]+) (?:training )?examples\)", content["title"])
    return ", ".join(part.groups()) if part else content["title"].split(",")[0]


def _seeds(content: Race) -> str:
    return counted(len(content["seeds"]), "seed")
