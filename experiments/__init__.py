"""Experiments with ksam_jax: what its methods are worth, and what they cost.

- `python -m experiments.compare` trains every method and prints the comparison.
- `python -m experiments.search` chooses each method's hyperparameters on validation.
- `python -m experiments.readme` copies the comparison's figures into README.md.

Nothing in ksam_jax imports from here.
"""
