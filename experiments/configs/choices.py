"""Chosen hyperparameters: one file per dataset, and per fraction of label noise.

Each split has its own choice, made on its own validation examples, since one split's
test examples are among another's validation examples.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict

from experiments.methods import COMMON, METHODS
from experiments.shell.cli import UsageError
from experiments.shell.formats import Format, Versioned

FOLDER = Path(__file__).parent / "chosen"


class Entry(TypedDict):
    """What a search has found best for a method; see `experiments.training.trials`."""

    hyperparameters: dict[str, float]
    validation_accuracy: NotRequired[float]
    validation_loss: NotRequired[float | None]
    trial: NotRequired[int]
    seconds: NotRequired[float]
    date: NotRequired[str]


class Settings(TypedDict, total=False):
    """What the choices depend on; nothing where there are none."""

    how: str
    protocol: dict[str, Any]
    trials: int
    seeds: int
    label_noise: float
    ranges: dict[str, dict[str, str]]


class Content(Versioned):
    """Of a file: by split (as a string, since it is a key in JSON) and method."""

    settings: Settings
    splits: dict[str, dict[str, Entry]]


CHOICES = Format(
    "chosen hyperparameters",
    Content,
    version=1,
    remedy="choose them again with experiments.search --restart",
)


class Choice(NamedTuple):
    """Hyperparameters of a method, and the split that they were chosen on."""

    values: dict[str, float]
    split: int


@dataclass(frozen=True)
class Choices:
    """The content of a file of choices.

    Attributes:
      path: the file.
      settings: how the search was done; see `experiments.search`.
      splits: see `Content`.
    """

    path: Path
    settings: Settings
    splits: dict[str, dict[str, Entry]]

    def has(self, method: str, split: int) -> bool:
        """Whether the method was searched for on this very split."""
        return method in self.splits.get(str(split), {})

    def choice(self, method: str, split: int) -> Choice:
        """The choice made on this split, or where there is none, split 0's."""
        source = split if self.has(method, split) else 0
        entry = self.splits[str(source)][method]
        return Choice(dict(entry["hyperparameters"]), source)

    def require(self, methods: Iterable[str]) -> None:
        """Raises a UsageError if a method has no choice even on split 0."""
        missing = sorted(method for method in methods if not self.has(method, 0))
        if missing:
            dataset = self.path.stem.split("-")[0]
            raise UsageError(
                f"no hyperparameters for {', '.join(missing)} in {self.path}; choose them "
                f"with: python -m experiments.search --dataset {dataset}"
            )

    def add(self, method: str, split: int, entry: Entry) -> None:
        """Adds one entry and writes the file."""
        self.splits.setdefault(str(split), {})[method] = entry
        in_order = dict(sorted(self.splits.items(), key=lambda item: int(item[0])))
        CHOICES.write(self.path, {"settings": self.settings, "splits": in_order})


def at_settings_of(baseline: str, choices: Choices, methods: Iterable[str]) -> Choices:
    """The methods at a baseline's learning rate and weight decay, as a stranger has them.

    What is a method's own, as its radius, is at the library's default.
    """

    def entry(split: str, name: str) -> Entry:
        values = choices.choice(baseline, int(split)).values
        takes = METHODS[name].takes
        return {
            "hyperparameters": {x: values[x] for x in COMMON}
            | {x: float(takes[x].default) for x in METHODS[name].own}
        }

    names = {baseline, *methods}
    splits = {
        split: {name: entry(split, name) for name in names} for split in choices.splits
    }
    how = choices.settings.get("how", "")
    label = METHODS[baseline].label
    said = f"those chosen for {label} for all methods, and each method's default radius"
    settings: Settings = {**choices.settings, "how": f"{said}; chosen so: {how}"}
    return replace(choices, settings=settings, splits=splits)


def path_of(dataset: str, label_noise: float, folder: Path = FOLDER) -> Path:
    """Where the choices for a dataset and a fraction of label noise are kept."""
    noise = f"-noise-{label_noise:g}" if label_noise else ""
    return folder / f"{dataset}{noise}.json"


def read(path: Path) -> Choices:
    """Reads a file of choices; without a file, nothing is chosen yet."""
    if not path.exists():
        return Choices(path, {}, {})
    content = CHOICES.read(path)
    return Choices(path, content["settings"], content["splits"])


def best_available(dataset: str, label_noise: float, folder: Path = FOLDER) -> Choices:
    """The choices made with this label noise or, if there are none, without any."""
    noisy = read(path_of(dataset, label_noise, folder))
    return noisy if noisy.splits else read(path_of(dataset, 0.0, folder))


def caveats(
    choices: Choices,
    protocol: Mapping[str, Any],
    label_noise: float,
    methods: Iterable[str],
    splits: int,
) -> list[str]:
    """In what respect the hyperparameters were chosen for something else, if any.

    Args:
      choices: that are used.
      protocol: what they are used for; see `Protocol.summary`.
      label_noise: likewise.
      methods: likewise.
      splits: how many.
    """
    lines = []
    searched = choices.settings.get("protocol", {})
    for name, now in protocol.items():
        if name in searched and searched[name] != now:
            lines.append(f"{name.replace('_', ' ')} {searched[name]}")
    noise = choices.settings.get("label_noise", label_noise)
    if noise != label_noise:
        lines.append(f"label noise {noise:g}")
    notes = [f"Hyperparameters were chosen with {', '.join(lines)}."] if lines else []
    methods = list(methods)
    others = [i for i in range(splits) if not all(choices.has(m, i) for m in methods)]
    if others:
        which = "split" if len(others) == 1 else "splits"
        numbers = ", ".join(map(str, others))
        notes.append(f"Hyperparameters on {which} {numbers} are those chosen on split 0.")
    return notes
