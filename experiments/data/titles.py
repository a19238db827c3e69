"""What tables and plots call a dataset."""

from experiments.data import datasets, glue, imagenet

TITLES = {
    **datasets.TITLES,
    imagenet.NAME: "ImageNet",
    **{name: task.title for name, task in glue.TASKS.items()},
}


def of(dataset: str) -> str:
    """Its title; where it has none, its name."""
    return TITLES.get(dataset, dataset)
