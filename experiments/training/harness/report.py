"""A finished run as a page: what came out, from what settings, at what cost."""

from collections.abc import Mapping
from pathlib import Path

from experiments.judging.rise import RADIUS
from experiments.judging.scores import SCORES
from experiments.methods import label
from experiments.models.zoo import title as title_of
from experiments.results import wording
from experiments.results.report import accelerator, made_on
from experiments.shell.progress import duration
from experiments.training.harness import contents, curves, settings
from experiments.training.harness.contents import About, Result, found
from experiments.training.harness.folder import METRICS, RESULT
from experiments.training.harness.metrics import read

PICTURE = "curves.png"


def write(folder: Path) -> None:
    """Makes report.md and its picture, from result.json and metrics.jsonl."""
    result = contents.RESULT.read(folder / RESULT)
    train, evaluations = read(folder / METRICS)
    titles = title(result), _below(result)
    best = _best_epoch(result)
    judged = wording.metric(result), wording.judged_on(result)
    curves.draw(folder / PICTURE, titles, train, evaluations, best, *judged)
    (folder / "report.md").write_text(_page(result), encoding="utf-8")


def title(result: About) -> str:
    """The dataset, the model and the method."""
    experiment = result["experiment"]
    model = title_of(experiment["model"], experiment["norm"])
    method = label(experiment["method"], experiment["k"])
    return f"{result['dataset']['title']}, {model}, {method}"


def _below(result: Result) -> str:
    """The line under the picture's heading."""
    last = result["last"]
    epochs = result["experiment"]["epochs"]
    return (
        f"{wording.quoted(result)} {_percent(found(last, wording.key(result)))}% after "
        f"{epochs} epoch{'' if epochs == 1 else 's'}; {_sizes(result)}"
    )


def _sizes(result: Result) -> str:
    data = result["dataset"]
    held_out = f"{data['validation']:,} validation, " if data["validation"] else ""
    judged = f"{data['test']:,} {wording.judged_on(result)} examples"
    return f"{data['train']:,} training, {held_out}{judged}"


def _best_epoch(result: Result) -> float | None:
    """None where it is the last one: there would be nothing to tell apart."""
    step = result["best"]["step"]
    return None if step == result["last"]["step"] else _epoch(result, step)


def _epoch(result: Result, step: int) -> float:
    return step * result["experiment"]["epochs"] / result["steps"]


def _page(result: Result) -> str:
    parts = (
        f"# {title(result)}",
        _summary(result),
        f"![Loss, {_name(result)}, sharpness and norms over epochs]({PICTURE})",
        "## Result",
        _checkpoints(result),
        _quoted(result),
        _sharpness(result),
        "## Settings",
        _table(("setting", "value"), settings.rows(result), "--- | ---"),
        "## Cost, machine, command",
        _cost(result),
        f"{made_on(result, accelerator(result))}. {_packages(result['versions'])}.",
        f"```bash\n{result['command']}\n```",
    )
    return "\n\n".join(part for part in parts if part) + "\n"


def _summary(result: Result) -> str:
    data, last = result["dataset"], result["last"]
    of = f"({data.get('source', '')}); {result['parameters']:,} parameters"
    return (
        f"**{wording.first_upper(wording.quoted(result))} "
        f"{_percent(found(last, wording.key(result)))}%** after the last epoch. "
        f"{_sizes(result)} {of}; "
        f"one run, seed {result['experiment']['seed']}: other seeds give other results."
    )


def _checkpoints(result: Result) -> str:
    last, best = result["last"], result["best"]
    both = (last, best)
    rows = [
        ("step", *(f"{one['step']:,}" for one in both)),
        ("epoch", *(f"{_epoch(result, one['step']):g}" for one in both)),
    ]
    for part, name in _parts(result).items():
        for metric, score in SCORES.items():
            if (key := f"{part}_{metric}") in last:
                values = (_percent(found(one, key)) for one in both)
                rows.append((f"{name} {score.title}, %", *values))
        losses = (_loss(found(one, f"{part}_loss")) for one in both)
        rows.append((f"{name} loss", *losses))
    header = ("", "last checkpoint", f"best by {best['judged_by']}")
    return _table(header, rows, "--- | ---: | ---:")


def _parts(result: Result) -> dict[str, str]:
    """What the model was looked at with, and what it is called."""
    names = {
        "train": "training",
        "validation": "validation",
        "test": wording.judged_on(result),
    }
    if not result["dataset"]["validation"]:
        del names["validation"]
    keys = (key for key in result["last"] if key.endswith("_loss"))
    others = (key.removesuffix("_loss") for key in keys)
    return names | {
        other: other.replace("validation_", f"{wording.judged_on(result)}, ")
        for other in others
        if other not in (*names, "validation")
    }


def _name(result: Result) -> str:
    return SCORES[wording.metric(result)].title


def _quoted(result: Result) -> str:
    """Which of the two to quote, and why."""
    judge = result["best"]["judged_by"]
    if _best_epoch(result) is None:
        return f"The last checkpoint is also the best by {judge}."
    text = (
        "The result to quote is the last checkpoint's, as in the papers: nothing was "
        "chosen after looking. The best one is the evaluated checkpoint with the "
        f"{'lowest' if 'loss' in judge else 'highest'} {judge}"
    )
    quoted = f"{wording.judged_on(result)} examples"
    if "validation" in judge:
        return f"{text}. The choice flatters that figure, but not the one on {quoted}."
    return f"{text}; the {quoted} had no say in it."


def _sharpness(result: Result) -> str:
    if result["sharpness"] is None:
        return ""
    return (
        f"Sharpness of the last checkpoint: {result['sharpness']:.4g}. So much does the "
        f"mean training loss rise at distance {RADIUS:g} along its gradient, the same "
        "measure for every method."
    )


def _cost(result: Result) -> str:
    devices, processes = result["devices"], result["processes"]
    on = f"{devices} device{'' if devices == 1 else 's'}"
    on += f" of {processes} processes" if processes > 1 else ""
    speed = result["examples_per_second"]
    pace = "" if speed is None else f", {speed:,.0f} examples/s (median)"
    return f"{duration(result['seconds'])} for {result['steps']:,} steps on {on}{pace}."


def _packages(versions: Mapping[str, str]) -> str:
    """All versions but those that the line before has."""
    others = {k: v for k, v in versions.items() if k not in ("python", "jax")}
    return "Packages: " + ", ".join(f"{name} {version}" for name, version in others.items())


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]], align: str) -> str:
    lines = [f"| {' | '.join(row)} |" for row in (header, *rows)]
    return "\n".join([lines[0], f"| {align} |", *lines[1:]])


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:.2f}"


def _loss(value: float | None) -> str:
    # Known everywhere: null stands for what JSON has no number for.
    return "not finite" if value is None else f"{value:.4f}"
