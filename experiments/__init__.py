"""Experiments with ksam_jax: what its methods are worth, and what they cost.

- `python -m experiments.compare` trains every method and prints the comparison.
- `python -m experiments.search` chooses each method's hyperparameters on validation.
- `python -m experiments.train` trains one model by one method, from a named config.
- `python -m experiments.reproduce` trains a table of configs, beside published values.
- `python -m experiments.race` shows who is first at the plain optimizer's accuracy.
- `python -m experiments.throughput` measures the input pipeline beside the step.
- `python -m experiments.benchmark` measures what a step of each method costs.
- `python -m experiments.largest_batch` finds what fits into memory.
- `python -m experiments.batchnorm` compares three gradients behind BatchNorm.
- `python -m experiments.scaling` counts what several devices send, compute and keep.
- `python -m experiments.figures` copies measured figures into README.md and docs.

Nothing in ksam_jax imports from here.
"""
