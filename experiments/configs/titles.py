"""What tables and plots call a dataset."""

from experiments import data, glue, imagenet

TITLES = {
    **data.TITLES,
    imagenet.NAME: "ImageNet",
    **{name: task.title for name, task in glue.TASKS.items()},
}


def of(dataset: str) -> str:
    """Its title; where it has none, its name."""
    return TITLES.get(dataset, dataset)
