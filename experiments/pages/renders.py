"""Results as Markdown: of each kind of block, (*contents, folder of pictures) -> text."""

from collections.abc import Mapping

from experiments.costs.benchmark.report import NOTES
from experiments.flatness import alignments
from experiments.flatness import report as flatness
from experiments.pages import benchmarks, devices
from experiments.pages.block import Content
from experiments.results import markdown, noise, speeds
from experiments.results.markdown import how, table
from experiments.results.report import title

# Columns of the table about BatchNorm: name in the results -> header, format.
BATCHNORM = {
    "cosine_through": ("cosine: published, differentiated through", ".2f"),
    "cosine_constants": ("cosine: published, constants", ".2f"),
    "norm_ratio_constants": ("norm: constants / published", ".2f"),
    "kernel_cosine_published": ("kernel and gradient: published", ".0e"),
    "kernel_cosine_constants": ("kernel and gradient: constants", ".2f"),
}


def reproduced(content: Content, folder: str) -> str:
    """One table of `experiments.reproduce`, and where each of its runs can be repeated."""
    rows = ", ".join(f"`{entry['config']}`" for entry in content["methods"].values())
    each = f"Each run by itself: `python -m experiments.train --config NAME`, of {rows}."
    return f"{markdown.comparison(content, folder)}\n\n{each}"


def pipeline(content: Content, folder: str) -> str:
    """The input pipeline's speed beside the training step's."""
    del folder
    found = table(speeds.HEADERS, speeds.table(content))
    return f"{found}\n\n{benchmarks.how(content)}"


def mislabelled(*contents: Content, folder: str) -> str:
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


def benchmark(*contents: Content, folder: str) -> str:
    """What a step of each method costs on each model."""
    parts = [
        table(*benchmarks.overview(contents)),
        f"![Time against the share k]({folder}/ratio_against_k.png)",
        f"![Temporary memory against the batch size]({folder}/memory.png)",
        " ".join(f"{note[0].upper()}{note[1:]}" for note in NOTES),
        benchmarks.how(contents[0]),
        *(benchmarks.details(content) for content in contents),
    ]
    return "\n\n".join(parts)


def largest_batch(content: Content, folder: str) -> str:
    """The largest batch of each method within the same memory."""
    del folder
    rows = [(label, f"{n:,}") for label, n in content["largest_batch"].items()]
    limit = content["limit_mib"]
    memory = f"{limit:,} MiB for a step" if limit else "the device's memory"
    header = f"{content['model']}, {memory}"
    return f"{table((header, 'largest batch'), rows)}\n\n{benchmarks.how(content)}"


def batchnorm(content: Content, folder: str) -> str:
    """How far three gradients of the highest losses are apart behind BatchNorm."""
    del folder
    rows = [
        (
            str(row["steps"]),
            *(_spread(row[name], form) for name, (_, form) in BATCHNORM.items()),
        )
        for row in content["rows"]
    ]
    headers = ("steps of SGD", *(header for header, _ in BATCHNORM.values()))
    return "\n\n".join(
        (table(headers, rows), _batchnorm_note(content), benchmarks.how(content))
    )


def sent(content: Content, folder: str) -> str:
    """What a device sends in a step of each method."""
    del folder
    return f"{table(*devices.sent(content))}\n\n{devices.note(content)}"


def kept(content: Content, folder: str) -> str:
    """What a device computes and keeps in a step of each method."""
    del folder
    return table(*devices.kept(content))


def measured(content: Content, folder: str) -> str:
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


def aligned(content: Content, folder: str) -> str:
    """How k examples' gradient stands for the batch's, before training."""
    del folder
    return "\n\n".join(
        [table(alignments.HEADERS, alignments.table_rows(content)), how(content)]
    )


def _spread(value: Mapping[str, float], form: str) -> str:
    return f"{value['mean']:{form}} ± {value['std']:{form}}"


def _batchnorm_note(content: Content) -> str:
    return (
        f"{content['model']}, in float32, on the first {content['images']:,} training "
        f"images of {content['dataset']}; {content['optimizer']}; of a batch of "
        f"{content['batch']} the {content['chosen']} highest losses. Mean ± standard "
        f"deviation over {content['seeds']} seeds of initial weights and order of batches."
    )
