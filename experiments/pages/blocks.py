"""Which page shows which result files, and how."""

from pathlib import Path

from experiments.configs.benchmark import CPU
from experiments.pages import accelerator, decision, devices, large, renders
from experiments.pages.block import Block
from experiments.racing import page as racing
from experiments.results import markdown

DOCS = Path("docs")
REFERENCE = Path("results/reference")
# The smaller MLP is only there to be compared with another build.
COSTS = {
    name: REFERENCE / "benchmark" / f"{name}.json" for name in CPU if name != "mlp_small"
}
DIGITS = REFERENCE / "digits" / "results.json"
MNIST = REFERENCE / "reproduce" / "mnist_1000" / "results.json"
SCALING = REFERENCE / "scaling" / "scaling.json"


def _results(*folders: str) -> tuple[Path, ...]:
    return tuple(REFERENCE / folder / "results.json" for folder in folders)


def _at_noise(dataset: str, *rates: float) -> tuple[Path, ...]:
    return _results(*(f"noise-{rate:g}/{dataset}" for rate in rates))


CHOOSE = (
    Block(
        DOCS / "choose.md",
        "choose",
        (*(path for name, path in COSTS.items() if name != "mlp"), DIGITS, MNIST),
        decision.choose,
    ),
)

RESULTS = (
    Block(Path("README.md"), "results", (DIGITS,), markdown.comparison),
    Block(DOCS / "results.md", "digits", (DIGITS,), markdown.comparison),
    Block(
        DOCS / "results.md", "digits-at-sgd", _results("sgd/digits"), markdown.comparison
    ),
    Block(DOCS / "results.md", "mnist-at-sgd", _results("sgd/mnist"), markdown.comparison),
    *(
        Block(
            DOCS / "results.md",
            f"race-{name}",
            (REFERENCE / table / "race.json",),
            racing.markdown,
        )
        for name, table in (
            ("digits", "race/digits"),
            ("mnist", "race/mnist_1000"),
            ("sst2", "race/sst2_transformer"),
            ("cifar10", "race/cifar10_resnet8"),
        )
    ),
    Block(DOCS / "results.md", "mnist", (MNIST,), renders.reproduced),
    Block(
        DOCS / "results.md",
        "cifar10-resnet8",
        _results("reproduce/cifar10_resnet8"),
        renders.reproduced,
    ),
    Block(
        DOCS / "results.md",
        "sst2",
        _results("reproduce/sst2_transformer"),
        renders.reproduced,
    ),
    Block(
        DOCS / "results.md",
        "remembered",
        _results("remembered/digits"),
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
)

PERFORMANCE = (
    Block(DOCS / "performance.md", "benchmark", tuple(COSTS.values()), renders.benchmark),
    Block(
        DOCS / "performance.md",
        "largest-batch",
        (REFERENCE / "benchmark" / "largest_batch.json",),
        renders.largest_batch,
    ),
    Block(DOCS / "performance.md", "batchnorm", _results("batchnorm"), renders.batchnorm),
    Block(
        DOCS / "training.md",
        "throughput",
        (REFERENCE / "throughput" / "throughput.json",),
        renders.pipeline,
    ),
    Block(
        DOCS / "large.md",
        "full-size",
        (REFERENCE / "full_size" / "full_size.json",),
        large.block,
    ),
    Block(
        DOCS / "accelerator.md",
        "accelerator",
        (REFERENCE / "accelerator" / "accelerator.json",),
        accelerator.block,
        "Not measured yet: no accelerator was at hand.",
    ),
    Block(DOCS / "scaling.md", "sent", (SCALING,), renders.sent),
    Block(DOCS / "scaling.md", "kept", (SCALING,), renders.kept),
    Block(DOCS / "scaling.md", "computed", (SCALING,), devices.computed),
)

SHARPNESS = tuple(
    Block(DOCS / "sharpness.md", name, _results(folder), render)
    for name, folder, render in (
        ("alignment", "alignment", renders.aligned),
        ("sharpness-digits", "sharpness/digits", renders.measured),
        ("sharpness-mnist", "sharpness/mnist", renders.measured),
    )
)

BLOCKS = (*CHOOSE, *RESULTS, *PERFORMANCE, *SHARPNESS)
