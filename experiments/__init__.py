"""Experiments with ksam_jax: what its methods are worth, and what they cost.

- `python -m experiments.compare` trains every method and prints the comparison.
- `python -m experiments.search` chooses each method's hyperparameters on validation.
- `python -m experiments.train` trains one model by one method, from a named config.
- `python -m experiments.reproduce` trains a table of configs, beside published values.
- `python -m experiments.race` shows who is first at the plain optimizer's accuracy.
- `python -m experiments.throughput` measures the input pipeline beside the step.
- `python -m experiments.benchmark` measures what a step of each method costs.
- `python -m experiments.accelerator` does all that is wanted of a GPU, in minutes.
- `python -m experiments.largest_batch` finds what fits into memory.
- `python -m experiments.batchnorm` compares three gradients behind BatchNorm.
- `python -m experiments.scaling` counts what several devices send, compute and keep.
- `python -m experiments.full_size` counts what a step of the largest models takes.
- `python -m experiments.tune` ranks values of one setting on held-out examples.
- `python -m experiments.sharpness` measures how flat the loss is where trainings end.
- `python -m experiments.landscape` draws the loss around what runs have found.
- `python -m experiments.alignment` asks what k the gradients recommend.
- `python -m experiments.figures` copies measured figures into README.md and docs.

Their parts are in rooms, each of which imports only from those before it:

- `shell`: command line, progress, whole files.
- `processes`: several processes and devices.
- `judging`: losses of outputs, scores of predictions, the rise of the loss.
- `methods`: a row for each method, and its look in plots.
- `data`: the catalogue of data sets, how they are read, drawn, ordered and augmented.
- `models`: networks.
- `configs`: what is trained on what, with which hyperparameters.
- `costs`: time, operations and memory of a step, and what devices send.
- `results`: records, intervals, tables, plots.
- `training`: one step, replicas side by side, and the harness of a run with checkpoints.
- `flatness`: measures and landscapes around solutions.
- `racing`: who is first.
- `pages`: what README.md and docs show of result files.

Nothing in ksam_jax imports from here.
"""
