"""Copies measured figures from result files into README.md and the pages in docs.

Everything between two marks, <!-- NAME:begin --> and <!-- NAME:end -->, is replaced, so
that no figure there is typed by hand. With --check nothing is written: the exit status
says whether the pages are up to date. Run it in the project's folder.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from experiments import alignment, cli, decision, large, markdown, noise, throughput
from experiments.benchmarking import page
from experiments.benchmarking.report import NOTES
from experiments.configs.benchmark import CPU
from experiments.devices import page as devices
from experiments.flatness import report as flatness
from experiments.markdown import how, table
from experiments.report import title

Content = Mapping[str, Any]
PROG = "python -m experiments.figures"
REFERENCE = Path("results/reference")
SCALING = REFERENCE / "scaling" / "scaling.json"

# Columns of the table about BatchNorm: name in the results -> header, format.
BATCHNORM = {
    "cosine_through": ("cosine: published, differentiated through", ".2f"),
    "cosine_constants": ("cosine: published, constants", ".2f"),
    "norm_ratio_constants": ("norm: constants / published", ".2f"),
    "kernel_cosine_published": ("kernel and gradient: published", ".0e"),
    "kernel_cosine_constants": ("kernel and gradient: constants", ".2f"),
}


@dataclass(frozen=True)
class Block:
    """A part of a page that is made of result files.

    Attributes:
      page: the file that has the marks.
      name: of the marks.
      sources: result files.
      render: (contents of the sources, folder of the pictures) -> Markdown.
    """

    page: Path
    name: str
    sources: tuple[Path, ...]
    render: Callable[[Sequence[Content], str], str]

    def text(self) -> str:
        """The figures as Markdown."""
        contents = [_finished(source) for source in self.sources]
        folder = os.path.relpath(self.sources[0].parent, self.page.parent)
        return self.render(contents, Path(folder).as_posix())


@dataclass(frozen=True)
class Config:
    """Options of the copying."""

    check: Annotated[
        bool, arg(help="Write nothing; exit status 1 if a page isn't up to date.")
    ] = False


def comparison(contents: Sequence[Content], folder: str) -> str:
    """The tables and the picture of one comparison."""
    (content,) = contents
    return markdown.comparison(content, folder)


def reproduced(contents: Sequence[Content], folder: str) -> str:
    """One table of `experiments.reproduce`, and where each of its runs can be repeated."""
    (content,) = contents
    rows = ", ".join(f"`{entry['config']}`" for entry in content["methods"].values())
    each = f"Each run by itself: `python -m experiments.train --config NAME`, of {rows}."
    return f"{markdown.comparison(content, folder)}\n\n{each}"


def pipeline(contents: Sequence[Content], folder: str) -> str:
    """The input pipeline's speed beside the training step's."""
    del folder
    (content,) = contents
    return f"{table(throughput.HEADERS, throughput.table(content))}\n\n{page.how(content)}"


def mislabelled(contents: Sequence[Content], folder: str) -> str:
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


def benchmark(contents: Sequence[Content], folder: str) -> str:
    """What a step of each method costs on each model."""
    parts = [
        table(*page.overview(contents)),
        f"![Time against the share k]({folder}/ratio_against_k.png)",
        f"![Temporary memory against the batch size]({folder}/memory.png)",
        " ".join(f"{note[0].upper()}{note[1:]}" for note in NOTES),
        page.how(contents[0]),
        *(page.details(content, table) for content in contents),
    ]
    return "\n\n".join(parts)


def largest_batch(contents: Sequence[Content], folder: str) -> str:
    """The largest batch of each method within the same memory."""
    del folder
    (content,) = contents
    rows = [(label, f"{n:,}") for label, n in content["largest_batch"].items()]
    limit = content["limit_mib"]
    memory = f"{limit:,} MiB for a step" if limit else "the device's memory"
    header = f"{content['model']}, {memory}"
    return f"{table((header, 'largest batch'), rows)}\n\n{page.how(content)}"


def batchnorm(contents: Sequence[Content], folder: str) -> str:
    """How far three gradients of the highest losses are apart behind BatchNorm."""
    del folder
    (content,) = contents
    rows = [
        (
            str(row["steps"]),
            *(_spread(row[name], form) for name, (_, form) in BATCHNORM.items()),
        )
        for row in content["rows"]
    ]
    headers = ("steps of SGD", *(header for header, _ in BATCHNORM.values()))
    return "\n\n".join((table(headers, rows), _batchnorm_note(content), page.how(content)))


def sent(contents: Sequence[Content], folder: str) -> str:
    """What a device sends in a step of each method."""
    del folder
    (content,) = contents
    return f"{table(*devices.sent(content))}\n\n{devices.note(content)}"


def kept(contents: Sequence[Content], folder: str) -> str:
    """What a device computes and keeps in a step of each method."""
    del folder
    (content,) = contents
    return table(*devices.kept(content))


def pod(contents: Sequence[Content], folder: str) -> str:
    """A large model on many devices, from formulas."""
    (content,) = contents
    return devices.computed(content, folder)


def measured(contents: Sequence[Content], folder: str) -> str:
    """How flat the loss is where each method ends, and what that says of its accuracy."""
    del folder
    (content,) = contents
    parts = [
        f"**{title(content)}**",
        table(flatness.headers(content), flatness.rows(content)),
        " ".join(flatness.notes(content)),
        table(flatness.RANKS, flatness.rank_rows(content)),
        how(content),
    ]
    return "\n\n".join(parts)


def aligned(contents: Sequence[Content], folder: str) -> str:
    """How k examples' gradient stands for the batch's, before training."""
    del folder
    (content,) = contents
    return "\n\n".join(
        [table(alignment.HEADERS, alignment.table_rows(content)), how(content)]
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


def _at_noise(dataset: str, *rates: float) -> tuple[Path, ...]:
    return tuple(REFERENCE / f"noise-{r:g}" / dataset / "results.json" for r in rates)


BLOCKS = (
    Block(
        Path("README.md"), "results", (REFERENCE / "digits" / "results.json",), comparison
    ),
    Block(
        Path("docs/choose.md"),
        "choose",
        (
            *(REFERENCE / "benchmark" / f"{name}.json" for name in CPU if name != "mlp"),
            REFERENCE / "digits" / "results.json",
            REFERENCE / "reproduce" / "mnist_1000" / "results.json",
        ),
        decision.choose,
    ),
    Block(
        Path("docs/results.md"),
        "digits",
        (REFERENCE / "digits" / "results.json",),
        comparison,
    ),
    Block(
        Path("docs/results.md"),
        "mnist",
        (REFERENCE / "reproduce" / "mnist_1000" / "results.json",),
        reproduced,
    ),
    Block(
        Path("docs/results.md"),
        "cifar10-resnet8",
        (REFERENCE / "reproduce" / "cifar10_resnet8" / "results.json",),
        reproduced,
    ),
    Block(
        Path("docs/results.md"),
        "sst2",
        (REFERENCE / "reproduce" / "sst2_transformer" / "results.json",),
        reproduced,
    ),
    Block(
        Path("docs/training.md"),
        "throughput",
        (REFERENCE / "throughput" / "throughput.json",),
        pipeline,
    ),
    Block(
        Path("docs/results.md"),
        "remembered",
        (REFERENCE / "remembered" / "digits" / "results.json",),
        comparison,
    ),
    Block(
        Path("docs/results.md"),
        "noise",
        _at_noise("digits_900", 0, 0.1, 0.2, 0.4),
        mislabelled,
    ),
    Block(
        Path("docs/results.md"),
        "noise-384",
        _at_noise("digits", 0, 0.2),
        mislabelled,
    ),
    Block(
        Path("docs/performance.md"),
        "benchmark",
        tuple(REFERENCE / "benchmark" / f"{name}.json" for name in CPU),
        benchmark,
    ),
    Block(
        Path("docs/performance.md"),
        "largest-batch",
        (REFERENCE / "benchmark" / "largest_batch.json",),
        largest_batch,
    ),
    Block(
        Path("docs/performance.md"),
        "batchnorm",
        (REFERENCE / "batchnorm" / "results.json",),
        batchnorm,
    ),
    Block(
        Path("docs/large.md"),
        "full-size",
        (REFERENCE / "full_size" / "full_size.json",),
        large.block,
    ),
    *(
        Block(Path("docs/scaling.md"), name, (SCALING,), render)
        for name, render in {"sent": sent, "kept": kept, "computed": pod}.items()
    ),
    Block(
        Path("docs/sharpness.md"),
        "alignment",
        (REFERENCE / "alignment" / "results.json",),
        aligned,
    ),
    *(
        Block(
            Path("docs/sharpness.md"),
            f"sharpness-{dataset}",
            (REFERENCE / "sharpness" / dataset / "results.json",),
            measured,
        )
        for dataset in ("digits", "mnist")
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Rewrites or checks the pages, and returns the exit status."""
    config = cli.parse(Config, argv, PROG, __doc__ or "")
    stale = False
    for path in dict.fromkeys(block.page for block in BLOCKS):
        old = _read(path)
        new = old
        for block in BLOCKS:
            if block.page == path:
                new = replaced(new, block.name, block.text(), path)
        if new == old:
            print(f"{path} is up to date")
        elif config.check:
            stale = True
            print(f"{path} is stale: run {PROG}", file=sys.stderr)
        else:
            path.write_text(new, encoding="utf-8")
            print(f"rewrote the figures in {path}")
    return int(stale)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise cli.UsageError(f"can't read {path}: {error.strerror}") from error


def _finished(path: Path) -> Content:
    try:
        content = json.loads(_read(path))
        complete = content.get("complete", "machine" in content)
    except (ValueError, AttributeError) as error:
        raise cli.UsageError(f"{path} is not a file of results") from error
    if not complete:
        raise cli.UsageError(f"{path} is of a run that wasn't finished")
    return content


def replaced(text: str, name: str, block: str, path: Path) -> str:
    """The text with `block` between the two marks."""
    begin, end = (f"<!-- {name}:{which} -->" for which in ("begin", "end"))
    if text.count(begin) != 1 or text.count(end) != 1:
        raise cli.UsageError(f"{path} must have {begin} and {end} once each")
    before, rest = text.split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}\n{block}\n{end}{after}"


if __name__ == "__main__":
    sys.exit(cli.run(main, None))
