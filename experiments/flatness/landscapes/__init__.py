"""The loss around the solutions that runs of `experiments.train` have found."""
