"""A race as a table, a note and a picture, from the content of race.json."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from experiments.racing import entries, summary
from experiments.racing.contents import LapContent, Race, Seed
from experiments.racing.laps import Lap, Steps
from experiments.racing.summary import Summary
from experiments.results.markdown import table
from experiments.results.plots import races as pictures
from experiments.results.plots.lines import Curve

PICTURE = "race.png"

OPERATIONS = "operations"
HEADERS = (
    "method",
    "there after, of the baseline's time",
    "never",
    "all of its time",
    "examples",
    OPERATIONS,
    "ends at %",
    "difference, points",
)


def headers(content: Race) -> tuple[str, ...]:
    """Names of the columns; operations are in races since they are counted."""
    return tuple(one for one in HEADERS if one != OPERATIONS or "operations" in content)


def title(content: Race) -> str:
    """What was raced on."""
    return f"{content['title']}: time to {_baseline(content)}'s validation accuracy"


def rows(content: Race) -> list[tuple[str, ...]]:
    """One row of cells per method."""
    base, counted = content["baseline"], content.get("operations")
    found = summary.summarise(races_of(content), base)
    return [
        _row(
            entries.label(name, base),
            one,
            counted[name] / counted[base] if counted else None,
        )
        for name, one in found.items()
    ]


def _row(label: str, one: Summary, operations: float | None) -> tuple[str, ...]:
    never = sum(share is None for share in one.reached)
    median = one.median_reached
    counted = () if operations is None else (f"{operations:.2f}",)
    return (
        label,
        "-" if median is None else f"{median:.2f}",
        f"{never} of {len(one.reached)}",
        f"{np.median(one.time):.2f}",
        f"{one.examples:.2f}",
        *counted,
        mean_score(one),
        difference(one),
    )


def mean_score(one: Summary) -> str:
    """Over the seeds, in percent."""
    known = [score for score in one.scores if score is not None]
    return f"{100 * np.mean(known):.2f}" if len(known) == len(one.scores) else "broke down"


def difference(one: Summary) -> str:
    """From the baseline's, in points."""
    if one.difference is None:
        return "-"
    mean, margin = 100 * one.difference.mean, 100 * one.difference.margin
    spread = f" \N{PLUS-MINUS SIGN} {margin:.2f}" if np.isfinite(margin) else ""
    return f"{mean:+.2f}{spread}"


def note(content: Race) -> str:
    """What the columns are, how it was made, and on what."""
    first = next(iter(content["settings"].values()))
    machine = content["machine"]
    return (
        f"{len(content['seeds'])} seeds; all at {_baseline(content)}'s settings, only the "
        f"radius is a method's own. There: the first of {content['laps']} looks at which "
        f"the validation accuracy is that of {_baseline(content)} at its end, median over "
        f"seeds. Never: seeds that didn't get there. Examples: mean share that decided the "
        f"descent. {_counted(content)}Differences are paired by seed, with 95% intervals. "
        f"Time is training alone, in turns on {machine['cores']} cores, {machine['cpu']}, "
        f"JAX {content['versions']['jax']}; {first['experiment']['epochs']} epochs. "
        f"Command: `{content['command']}`"
    )


def _counted(content: Race) -> str:
    if "operations" not in content:
        return ""
    return (
        f"Operations: XLA's count for a whole step against {_baseline(content)}'s, the "
        f"mean over the steps that there were. "
    )


def markdown(content: Race, folder: str) -> str:
    """The table, the picture and the note, for a page of the documentation."""
    picture = f"![Validation accuracy against time]({Path(folder) / PICTURE})"
    parts = (
        f"**{title(content)}**",
        table(headers(content), rows(content)),
        picture,
        note(content),
    )
    return "\n\n".join(parts)


def draw(content: Race, path: Path) -> None:
    """Writes the picture: the mean over the seeds, against the median time."""
    about = (
        f"{content['title']}, {len(content['seeds'])} seeds, all at {_baseline(content)}'s "
        f"settings.\nIn turns on one machine. Dashed: where {_baseline(content)} ends."
    )
    heading = f"Who is first at {_baseline(content)}'s accuracy?"
    lines = curves(content)
    pictures.race(lines, path, title=heading, note=about, y="validation accuracy, %")


def curves(content: Race, shown: Sequence[str] | None = None) -> list[Curve]:
    """Of the baseline and all others, or those."""
    found, base = races_of(content), content["baseline"]
    names = found if shown is None else (base, *shown)
    return [_curve(name, found, base) for name in names]


def _curve(name: str, found: summary.Races, base: str) -> Curve:
    ends = [laps[-1].seconds for laps in found[base]]
    at = [
        np.array([lap.seconds for lap in laps]) / end
        for laps, end in zip(found[name], ends, strict=True)
    ]
    scores = np.array(
        [
            [np.nan if x.score is None else 100 * x.score for x in laps]
            for laps in found[name]
        ]
    )
    colour, marker = entries.mark(name, base)
    label = entries.label(name, base)
    return Curve(label, colour, marker, np.median(at, 0), scores.mean(0))


def _baseline(content: Race) -> str:
    return entries.label(content["baseline"], content["baseline"])


def races_of(content: Race) -> dict[str, list[list[Lap]]]:
    """By method, the laps of each seed."""
    return races(content["settings"], content["seeds"])


def races(names: Iterable[str], seeds: Iterable[Seed]) -> dict[str, list[list[Lap]]]:
    """By method, the laps of each seed."""
    seeds = list(seeds)
    return {name: [[_lap(lap) for lap in seed[name]] for seed in seeds] for name in names}


def _lap(lap: LapContent) -> Lap:
    kinds = tuple(Steps(**kind) for kind in lap.get("kinds", ()))
    return Lap(**{**lap, "kinds": kinds})
