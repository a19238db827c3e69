"""Named experiments: they can be run, differ in their method alone, and are as searched."""

import inspect
import itertools

import pytest
from hand_chosen import values_of, write_choices
from named_rows import PAPER_MODELS, experiment, on_cifar, own

from experiments.configs import choices, digits, mnist, rows, searched
from experiments.configs.cifar_methods import DECAY
from experiments.configs.experiment import OWN
from experiments.configs.rows import ROWS
from experiments.data.augment import Augmentation
from experiments.methods import DEFAULT, METHODS
from experiments.models import zoo
from experiments.shell.cli import UsageError
from experiments.training.harness import job

# Of names, where they don't begin with the dataset's.
PREFIXES = {
    "sst2_transformer": "sst2",
    "sst2_searched": "sst2",
    "imagenet_resnet50": "imagenet",
    "imagenet_vit_s_16": "imagenet",
}
# GLUE's tasks (Wang et al., 2018, table 1) with less than 50,000 training examples.
SMALLER = {
    "glue/cola": 8551,
    "glue/mrpc": 3668,
    "glue/stsb": 5749,
    "glue/rte": 2490,
    "glue/wnli": 635,
}
COMPARED = {
    *("sgd", "sam", "asam", "k_sam", "k_sam_half", "esam", "f_sam", "k_momentum_sam")
}


def was_searched_for(row):
    unsearched = row.name.startswith(("glue_", "imagenet_"))
    return not (unsearched or row in on_cifar())


# Rows.


@pytest.mark.parametrize("row", ROWS.values(), ids=lambda row: row.name)
def test_a_row_can_be_built(row):
    what = row.experiment
    method = METHODS[what.method]
    assert set(own(what)) <= set(inspect.signature(method.gradient).parameters)
    # A radius is never left to the library's default; all the search's values are there.
    assert set(method.own) <= set(own(what))
    extra = {"seed": 3} if method.random else {}
    extra |= {"num_examples": 50} if method.remembers else {}
    # The method looks at the values' ranges itself.
    assert callable(method.gradient(**own(what), **extra).init)


@pytest.mark.parametrize("row", ROWS.values(), ids=lambda row: row.name)
def test_a_row_says_what_it_is_and_where_from(row):
    what = row.experiment
    assert row.name.startswith(PREFIXES.get(row.family, what.dataset.replace("/", "_")))
    assert row.name.endswith(f"_{what.method}")
    assert row.origin.endswith(".")
    assert "  " not in row.origin
    assert ".." not in row.origin
    rho = what.rho
    assert (rho is None) == (what.method in ("sgd", "adamw", "highest_loss"))
    if row in on_cifar() and rho is not None:
        assert f"adius {rho:g}" in row.origin


@pytest.mark.parametrize("row", ROWS.values(), ids=lambda row: row.name)
def test_a_row_passes_the_checks_of_a_run(row):
    if zoo.MODELS[row.experiment.model].bert:
        with pytest.raises(UsageError, match="starts from a checkpoint: give --pretr"):
            job.check(row.experiment)
    else:
        job.check(row.experiment)


def test_batches_fit_into_the_training_examples():
    for row in ROWS.values():
        name = row.experiment.dataset
        examples = row.experiment.train_examples or SMALLER.get(name, 50_000)
        assert 0 < row.experiment.batch_size <= examples
    assert mnist.BASE.train_examples == 8 * mnist.BASE.batch_size
    assert digits.BASE.train_examples == 3 * digits.BASE.batch_size


def test_every_method_on_every_network_of_the_papers():
    found = {
        (r.experiment.dataset, r.experiment.model, r.experiment.method) for r in on_cifar()
    }
    assert found == set(itertools.product(("cifar10", "cifar100"), PAPER_MODELS, COMPARED))


def test_methods_on_a_network_differ_in_nothing_else():
    """But for the rows that our search chose for, learning rate and weight decay too."""
    shared = {}
    for row in ROWS.values():
        what = row.experiment
        family = shared.setdefault(row.name.removesuffix(what.method), set())
        common = {
            name: value
            for name, value in vars(what).items()
            if name not in ("method", *OWN)
            and (not was_searched_for(row) or name not in ("learning_rate", "weight_decay"))
        }
        family.add(tuple(common.items()))
    # digits, MNIST and Fashion-MNIST with two networks each, ResNet-8 on CIFAR four times;
    # SST-2 from scratch twice, GLUE's nine tasks, and ImageNet with two networks.
    assert len(shared) == 2 * len(PAPER_MODELS) + 9 + 2 + 9 + 2
    assert all(len(family) == 1 for family in shared.values())


# Rows that a search chose for.


@pytest.mark.parametrize(
    ("prefix", "searched", "least"),
    [
        ("mnist_1000", "mnist", {"sgd", "highest_loss", "sam", "k_sam", "k_momentum_sam"}),
        ("mnist_5000", "mnist_5000", {"sgd"}),
        ("digits", "digits", {"sgd", "highest_loss", "sam", "k_sam", "k_momentum_sam"}),
    ],
)
def test_searched_rows_are_what_the_file_has(prefix, searched, least):
    found = choices.read(choices.path_of(searched, 0.0))
    names = [m for m in DEFAULT if found.has(m, 0)]
    assert least <= set(names)
    mine = [row.name for row in ROWS.values() if row.name.startswith(f"{prefix}_")]
    assert mine == [f"{prefix}_{method}" for method in names]
    for method in names:
        what = experiment(f"{prefix}_{method}")
        values = found.choice(method, 0).values
        common = {name: getattr(what, name) for name in ("learning_rate", "weight_decay")}
        assert own(what) | common == values
        assert what.augmentation == Augmentation()


@pytest.mark.parametrize("dataset", ["digits", "mnist"])
def test_the_decay_is_what_our_searches_chose(dataset):
    found = choices.read(choices.path_of(dataset, 0.0))
    assert found.choice("k_momentum_sam", 0).values["decay"] == pytest.approx(
        DECAY, abs=0.05
    )


def test_a_method_that_was_not_searched_for_has_no_row(tmp_path):
    write_choices(tmp_path, methods=["sgd", "esam"], trials=7, seeds=4)
    made = list(searched.rows("a", digits.BASE, "A remark.", tmp_path))
    assert [row.name for row in made] == ["a_sgd", "a_esam"]
    assert made[1].experiment.beta == values_of("esam")["beta"]
    assert "the best of 7 trials of 4 seeds each, trained on 384 images" in made[1].origin
    assert made[1].origin.endswith(" validation images. A remark.")
    assert list(searched.rows("a", digits.BASE, "", tmp_path / "empty")) == []


# Names.


def test_an_unknown_row_is_one_line_with_the_closest():
    assert rows.row("digits_sam").experiment.method == "sam"
    with pytest.raises(
        UsageError,
        match=r"^unknown config 'cifar10_resnet18_ksam'; did you mean "
        r"'cifar10_resnet18_k_sam'\? --list shows all \d+$",
    ):
        rows.row("cifar10_resnet18_ksam")
    with pytest.raises(UsageError, match=r"^unknown config '17'\. --list shows all \d+$"):
        rows.row("17")


def test_names_are_unique():
    twice = ROWS["digits_sam"]
    with pytest.raises(ValueError, match="must be unique; got 'digits_sam' twice"):
        rows.by_name([twice, ROWS["digits_sgd"], twice])
