"""Which page shows which result files, and how."""

from functools import partial
from pathlib import Path
from typing import Any

from experiments.configs import digits, mnist
from experiments.configs.benchmark import CPU
from experiments.costs.accelerator.contents import ACCELERATOR
from experiments.costs.baseline.contents import BASELINES
from experiments.costs.benchmark.contents import BENCHMARK, LARGEST_BATCH
from experiments.costs.devices.contents import SCALING
from experiments.costs.full_size import FULL_SIZE
from experiments.costs.growth.contents import GROWTH
from experiments.flatness.contents import ALIGNMENTS, FLATNESS
from experiments.pages import (
    accelerator,
    batchnorm,
    beside,
    decision,
    devices,
    gallery,
    growth,
    large,
    renders,
)
from experiments.pages.block import REFERENCE, Block, Source
from experiments.pages.picture import Picture
from experiments.racing import page as racing
from experiments.racing import together
from experiments.racing.contents import RACE
from experiments.results import markdown
from experiments.results.contents import COMPARISON
from experiments.results.speeds import SPEEDS
from experiments.shell.formats import Format

# What all methods are compared on.
SMALL, IMAGES = digits.BASE.dataset, mnist.BASE.dataset
# By the name of their marks, which tables are raced and drawn together.
RACED = {
    "race-digits": SMALL,
    f"race-{IMAGES}": f"{IMAGES}_1000",
    f"race-{IMAGES}-5000": f"{IMAGES}_5000",
    "race-sst2": "sst2_transformer",
    "race-cifar10": "cifar10_10000",
}
AT_SGDS = (SMALL, IMAGES, f"{IMAGES}_5000")
DOCS = Path("docs")


def _source(kind: Format[Any], place: str) -> Source:
    return Source(kind, REFERENCE / place)


def _compared(*folders: str) -> tuple[Source, ...]:
    return tuple(_source(COMPARISON, f"{folder}/results.json") for folder in folders)


def _at_noise(dataset: str, *rates: float, kind: str = "noise") -> tuple[Source, ...]:
    return _compared(*(f"{kind}-{rate:g}/{dataset}" for rate in rates))


# The smaller MLP is only there to be compared with another build.
COSTS = {
    name: _source(BENCHMARK, f"benchmark/{name}.json")
    for name in CPU
    if name != "mlp_small"
}
DIGITS, MNIST = _compared(SMALL, f"reproduce/{IMAGES}_1000")
AT_SGD = dict(zip(AT_SGDS, _compared(*(f"sgd/{name}" for name in AT_SGDS)), strict=True))
RACES = tuple(_source(RACE, f"race/{table}/race.json") for table in RACED.values())
# By JAX's version, 0.10 first.
BESIDE = {
    "baseline": ("mlp", "mlp_small", "cnn", "resnet18", "vit", "transformer"),
    "baseline-0.12": ("mlp", "mlp_small", "vit"),
}
MORE_RACES = {
    "race-cifar10-unsearched": "cifar10_resnet8",
    "race-cifar10-group": "cifar10_resnet8_group",
    "race-cifar10-group-searched": "cifar10_10000_group",
    "race-cifar10-long": "cifar10_resnet8_long",
}
SCALED = (_source(SCALING, "scaling/scaling.json"),)


CHOOSE = (
    Block(
        DOCS / "choose.md",
        "costs",
        tuple(source for name, source in COSTS.items() if name != "mlp"),
        decision.costs,
    ),
    Block(
        DOCS / "choose.md",
        "gains",
        (*AT_SGD.values(), DIGITS, MNIST),
        partial(decision.gains, at_sgd=len(AT_SGD)),
    ),
)

RESULTS = (
    Block(Path("README.md"), "race", RACES, together.markdown),
    Block(DOCS / "results.md", SMALL, (DIGITS,), markdown.comparison),
    *(
        Block(
            DOCS / "results.md",
            f"{name}-at-sgd",
            (source,),
            markdown.comparison,
        )
        for name, source in AT_SGD.items()
    ),
    *(
        Block(DOCS / "results.md", mark, (race,), racing.markdown)
        for mark, race in zip(RACED, RACES, strict=True)
    ),
    *(
        Block(
            DOCS / "results.md",
            mark,
            (_source(RACE, f"race/{place}/race.json"),),
            racing.markdown,
        )
        for mark, place in MORE_RACES.items()
    ),
    Block(
        DOCS / "how-to" / "flax.md",
        "race-statistics",
        (_source(RACE, "race/cifar10_resnet8_statistics/race.json"),),
        racing.markdown,
    ),
    Block(DOCS / "results.md", IMAGES, (MNIST,), renders.reproduced),
    Block(
        DOCS / "results.md",
        "cifar10-resnet8",
        _compared("reproduce/cifar10_resnet8"),
        renders.reproduced,
    ),
    Block(
        DOCS / "results.md",
        "sst2",
        _compared("reproduce/sst2_transformer"),
        renders.reproduced,
    ),
    Block(
        DOCS / "results.md",
        "sst2-own",
        _compared("reproduce/sst2_searched"),
        renders.reproduced,
    ),
    Block(
        DOCS / "results.md",
        "remembered",
        _compared("remembered/digits"),
        markdown.comparison,
    ),
    Block(
        DOCS / "results.md",
        "noise",
        _at_noise("digits_900", 0, 0.1, 0.2, 0.4),
        renders.mislabelled,
    ),
    Block(
        DOCS / "results.md",
        "noise-384",
        _at_noise("digits", 0, 0.2),
        renders.mislabelled,
    ),
    Block(
        DOCS / "results.md",
        "noise-own",
        _at_noise("digits_900", 0, 0.1, 0.2, 0.4, kind="own-noise"),
        renders.mislabelled,
    ),
    Block(
        DOCS / "results.md",
        "noise-at-sgd",
        _at_noise("digits_900", 0, 0.1, 0.2, 0.4, kind="sgd-noise"),
        renders.mislabelled,
    ),
)

PERFORMANCE = (
    Block(DOCS / "performance.md", "benchmark", tuple(COSTS.values()), renders.benchmark),
    *(
        Block(
            DOCS / "performance.md",
            name,
            tuple(_source(BASELINES, f"{name}/{model}.json") for model in models),
            beside.block,
        )
        for name, models in BESIDE.items()
    ),
    Block(
        DOCS / "performance.md",
        "largest-batch",
        (_source(LARGEST_BATCH, "benchmark/largest_batch.json"),),
        renders.largest_batch,
    ),
    Block(
        DOCS / "performance.md",
        "batchnorm",
        (_source(batchnorm.BATCHNORM, "batchnorm/results.json"),),
        batchnorm.block,
    ),
    Block(
        DOCS / "training.md",
        "throughput",
        (_source(SPEEDS, "throughput/throughput.json"),),
        renders.pipeline,
    ),
    Block(
        DOCS / "large.md",
        "full-size",
        (_source(FULL_SIZE, "full_size/full_size.json"),),
        large.block,
    ),
    Block(
        DOCS / "accelerator.md",
        "accelerator",
        (_source(ACCELERATOR, "accelerator/accelerator.json"),),
        accelerator.block,
        "Not measured yet: no accelerator was at hand.",
    ),
    *(
        Block(
            DOCS / "growth.md",
            name,
            (_source(GROWTH, f"{name}/growth.json"),),
            growth.block,
            "Not measured yet.",
        )
        for name in ("growth", "growth-images")
    ),
    Block(DOCS / "scaling.md", "sent", SCALED, renders.sent),
    Block(DOCS / "scaling.md", "kept", SCALED, renders.kept),
    Block(DOCS / "scaling.md", "computed", SCALED, devices.computed),
)

SHARPNESS = (
    Block(
        DOCS / "sharpness.md",
        "alignment",
        (_source(ALIGNMENTS, "alignment/results.json"),),
        renders.aligned,
    ),
    *(
        Block(
            DOCS / "sharpness.md",
            f"sharpness-{name}",
            (_source(FLATNESS, f"sharpness/{name}/results.json"),),
            renders.measured,
        )
        for name in (SMALL, IMAGES)
    ),
)

GALLERY = Block(DOCS / "gallery.md", "gallery", gallery.SOURCES, gallery.markdown)

BLOCKS = (*CHOOSE, *RESULTS, *PERFORMANCE, *SHARPNESS, GALLERY)

PICTURES = (Picture(REFERENCE / "race" / together.PICTURE, RACES, together.draw),)
