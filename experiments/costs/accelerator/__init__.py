"""The parts of `python -m experiments.accelerator` that are costs, each in pieces."""
