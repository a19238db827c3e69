"""Two builds of the library side by side: `python -m experiments.benchmark --baseline`.

Of the older commit only `ksam_jax` is taken; models, steps, clock and driver are those of
today, so that the two differ in nothing else.
"""
