"""The benchmark beside an older commit, as a part of a page."""

from experiments.costs.baseline.contents import Beside
from experiments.costs.baseline.table import NOTES, ON_A_PAGE, rows, title
from experiments.pages.benchmarks import how
from experiments.results import wording
from experiments.results.markdown import table


def block(*models: Beside, folder: str) -> str:
    """A table for each model, of one version of JAX, and the commands of the runs."""
    del folder
    tables = [f"**{title(each)}**\n\n{table(ON_A_PAGE, rows(each))}" for each in models]
    notes = " ".join(map(wording.first_upper, NOTES))
    return "\n\n".join([*tables, notes, *dict.fromkeys(map(how, models))])
