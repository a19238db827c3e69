"""The settings of a finished run as rows of a table."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.configs.experiment import FALLS, OWN
from experiments.data import catalogue
from experiments.methods import METHODS
from experiments.models.zoo import MODELS
from experiments.results import wording
from experiments.training.harness.contents import Result

# What only images have, and what only texts have.
OF_IMAGES = ("augmentation", "norm")
OF_TEXTS = ("dropout", "length", "vocabulary", "pretrained")


def rows(result: Result) -> list[tuple[str, str]]:
    """All that was set, or left at the method's default; what isn't of it is left out.

    Args:
      result: of a result.json.
    """
    found = [("experiment", result["name"])]
    experiment = result["experiment"]
    takes = METHODS[experiment["method"]].takes
    for name, value in experiment.items():
        is_default = value is None and name in OWN and name in takes
        shown: Any = takes[name].default if is_default else value
        if _isnt_of_it(name, result):
            continue
        if name == "augmentation":
            cut = catalogue.named(experiment["dataset"]).cut
            found.append((name, cut + _augmentation(shown)))
        elif name == "pretrained" and value is not None:
            # Whose folder it is in is nobody's business.
            found.append((name, Path(value).name))
        elif name == "train_examples" and value is None:
            found.append((name, "all that aren't held out"))
        elif name == "learning_rate":
            found.append((name, f"{value:g}{_course(experiment)}"))
        elif shown is not None:
            found.append((name, _plain(shown)))
    return [(name.replace("_", " "), value) for name, value in found]


def _isnt_of_it(name: str, result: Result) -> bool:
    experiment = result["experiment"]
    is_text = wording.things(result) == "texts"
    has_choice = MODELS[experiment["model"]].grouped is not None
    return (
        name in (OF_IMAGES if is_text else OF_TEXTS)
        or (name == "norm" and not has_choice)
        or (name == "vocabulary" and experiment["pretrained"] is not None)
        # The learning rate's row tells.
        or name in ("schedule", "warmup")
    )


def _course(experiment: Mapping[str, Any]) -> str:
    warmup = experiment["warmup"]
    rises = f", rising for {warmup:.1%} of the steps, then" if warmup else ","
    return f"{rises} falling to 0 {FALLS[experiment['schedule']]}"


def _augmentation(given: Mapping[str, Any]) -> str:
    words = []
    if given["crop"]:
        words.append(f"random crop after a border of {given['crop']}")
    if given["flip"]:
        words.append("random flip")
    if given["cutout"]:
        words.append(f"cutout of {given['cutout']} by {given['cutout']}")
    return ", ".join(words) or "none"


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
