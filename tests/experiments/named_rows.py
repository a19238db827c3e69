"""What tests ask of the named experiments."""

from experiments.configs.experiment import OWN
from experiments.configs.rows import ROWS

PAPER_MODELS = ("resnet18", "wrn28_10", "pyramidnet110", "vgg16")


def own(experiment):
    """The method's own hyperparameters that a row sets."""
    values = {name: getattr(experiment, name) for name in OWN}
    return {name: value for name, value in values.items() if value is not None}


def experiment(name):
    return ROWS[name].experiment


def on_cifar():
    return [
        row
        for row in ROWS.values()
        if row.experiment.model in PAPER_MODELS
        and row.experiment.dataset.startswith("cifar")
    ]
