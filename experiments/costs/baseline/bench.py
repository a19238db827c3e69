"""Compiles and runs the benchmark's training steps with the library of this process."""

from typing import Any

import jax

from experiments.configs.benchmark import Workload
from experiments.costs.benchmark.plan import Case
from experiments.costs.benchmark.programs import Model, Program
from experiments.costs.benchmark.task import make_task
from experiments.costs.timing import Burst


class Bench:
    """One model at a time, and its programs by case."""

    def __init__(self):
        self._model: Model | None = None
        self._programs: dict[Case, Program] = {}
        self._bursts: dict[Case, Burst] = {}

    def open(self, workload: Workload, dtype: str) -> int:
        """Makes the model, forgets an earlier one; returns how many numbers are trained."""
        self._programs, self._bursts = {}, {}
        self._model = Model(workload, make_task(workload.build(dtype)))
        return self._model.parameters

    def compile(self, case: Case) -> dict[str, Any]:
        """Traces and compiles a step as if it were the process's first, and counts it."""
        assert self._model is not None
        jax.clear_caches()
        with jax.numpy_dtype_promotion("standard"):
            program = self._model.compile(case)
        self._programs[case] = program
        return {
            "operations": program.operations,
            "temporary_bytes": program.temporary_bytes,
            "compile_seconds": program.lower_seconds + program.compile_seconds,
        }

    def warm_up(self, case: Case) -> float | None:
        """Seconds of a step; None if there is too little memory for it."""
        assert self._model is not None
        burst = self._model.warmed_up(self._programs[case])
        if burst is None:
            return None
        self._bursts[case] = burst
        return burst(1)

    def burst(self, case: Case, steps: int) -> float:
        """Runs so many steps; seconds that one of them took."""
        return self._bursts[case](steps)
