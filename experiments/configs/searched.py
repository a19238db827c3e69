"""Rows whose hyperparameters our own searches chose.

Those of `experiments.search` are read from its file, not typed again; those that
`experiments.tune` ranked are typed, since it ranks one setting at a time.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.configs.choices import FOLDER, Settings, path_of, read
from experiments.configs.experiment import Experiment, Row
from experiments.methods import DEFAULT


def rows(
    prefix: str,
    base: Experiment,
    remark: str,
    folder: Path = FOLDER,
    searched: str | None = None,
) -> Iterable[Row]:
    """A row for each method that a search has chosen for.

    Args:
      prefix: of the names.
      base: all but the method and what was chosen for it.
      remark: a sentence about how the choice relates to the row's own data.
      folder: of the files of choices.
      searched: what the search calls its data; None: the base's dataset.
    """
    choices = read(path_of(searched or base.dataset, 0.0, folder))
    for method in DEFAULT:
        # A method that hasn't been searched for yet has no row, rather than a guess.
        if choices.has(method, 0):
            values: dict[str, Any] = choices.choice(method, 0).values
            yield Row(
                name=f"{prefix}_{method}",
                experiment=replace(base, method=method, **values),
                published=None,
                origin=_origin(choices.settings, remark),
            )


def tuned(
    prefix: str, base: Experiment, chosen: Mapping[str, dict[str, Any]], origin: str
) -> Iterable[Row]:
    """A row for each method with what was chosen for it by hand.

    Args:
      prefix: of the names.
      base: all but the method and what was chosen for it.
      chosen: by the method.
      origin: of all of them; see `Row`.
    """
    for method, values in chosen.items():
        what = replace(base, method=method, **values)
        yield Row(f"{prefix}_{method}", what, published=None, origin=origin)


def _origin(settings: Settings, remark: str) -> str:
    protocol = settings.get("protocol", {})
    return (
        f"Learning rate, weight decay and the method's own hyperparameters are ours, from "
        f"experiments.search: the best of {settings.get('trials')} trials of "
        f"{settings.get('seeds')} seeds each, trained on {protocol['train']:,} images for "
        f"{protocol['epochs']} epochs in batches of {protocol['batch_size']}, by their "
        f"accuracy on {protocol['validation']:,} validation images. {remark}"
    )
