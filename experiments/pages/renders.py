"""Results as Markdown: of each kind of block, (*contents, folder of pictures) -> text."""

from experiments.costs.benchmark.contents import Benchmark, LargestBatch
from experiments.costs.benchmark.report import NOTES
from experiments.costs.devices.contents import Scaling
from experiments.flatness import alignments
from experiments.flatness import report as flatness
from experiments.flatness.contents import Alignments, Flatness
from experiments.pages import benchmarks, devices
from experiments.results import markdown, noise, speeds, wording
from experiments.results.contents import Comparison
from experiments.results.markdown import how, table
from experiments.results.report import title
from experiments.results.speeds import Speeds


def reproduced(content: Comparison, folder: str) -> str:
    """One table of `experiments.reproduce`, and where each of its runs can be repeated."""
    rows = ", ".join(f"`{entry.get('config')}`" for entry in content["methods"].values())
    each = f"Each run by itself: `python -m experiments.train --config NAME`, of {rows}."
    return f"{markdown.comparison(content, folder)}\n\n{each}"


def pipeline(content: Speeds, folder: str) -> str:
    """The input pipeline's speed beside the training step's."""
    del folder
    found = table(speeds.HEADERS, speeds.table(content))
    return f"{found}\n\n{benchmarks.how(content)}"


def mislabelled(*contents: Comparison, folder: str) -> str:
    """Accuracies against the share of wrong labels."""
    del folder
    header, *shares = noise.headers(contents)
    paired = f"difference in {header.replace('%', 'points')} (95% interval, paired)"
    parts = [
        table((header, *shares), noise.rows(contents)),
        table((paired, *shares), noise.difference_rows(contents)),
        noise.note(contents),
        "\n".join(f"- {noise.percent(content)}: {how(content)}" for content in contents),
    ]
    return "\n\n".join(parts)


def benchmark(*contents: Benchmark, folder: str) -> str:
    """What a step of each method costs on each model."""
    parts = [
        table(*benchmarks.overview(contents)),
        f"![Time against the share k]({folder}/ratio_against_k.png)",
        f"![Temporary memory against the batch size]({folder}/memory.png)",
        " ".join(map(wording.first_upper, NOTES)),
        benchmarks.how(contents[0]),
        *(benchmarks.details(content) for content in contents),
    ]
    return "\n\n".join(parts)


def largest_batch(content: LargestBatch, folder: str) -> str:
    """The largest batch of each method within the same memory."""
    del folder
    rows = [(label, f"{n:,}") for label, n in content["largest_batch"].items()]
    limit = content["limit_mib"]
    memory = f"{limit:,} MiB for a step" if limit else "the device's memory"
    header = f"{content['model']}, {memory}"
    return f"{table((header, 'largest batch'), rows)}\n\n{benchmarks.how(content)}"


def sent(content: Scaling, folder: str) -> str:
    """What a device sends in a step of each method."""
    del folder
    return f"{table(*devices.sent(content))}\n\n{devices.note(content)}"


def kept(content: Scaling, folder: str) -> str:
    """What a device computes and keeps in a step of each method."""
    del folder
    return table(*devices.kept(content))


def measured(content: Flatness, folder: str) -> str:
    """How flat the loss is where each method ends, and what that says of its accuracy."""
    del folder
    parts = [
        f"**{title(content)}**",
        table(flatness.headers(content), flatness.rows(content)),
        " ".join(flatness.notes(content)),
        table(flatness.RANKS, flatness.rank_rows(content)),
        how(content),
    ]
    return "\n\n".join(parts)


def aligned(content: Alignments, folder: str) -> str:
    """How k examples' gradient stands for the batch's, before training."""
    del folder
    return "\n\n".join(
        [table(alignments.HEADERS, alignments.table_rows(content)), how(content)]
    )
