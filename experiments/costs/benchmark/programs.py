"""Training steps compiled ahead of time, run in bursts."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from experiments.configs.benchmark import Workload
from experiments.costs import timing
from experiments.costs.benchmark.contenders import CONTENDERS, DEFAULT_KEEP
from experiments.costs.benchmark.plan import Case
from experiments.costs.benchmark.steps import Carry, Training
from experiments.costs.benchmark.task import Batch, Task, random_batch

# The training set of methods that remember losses, in batches; its size costs nothing.
BATCHES = 8

# Of XLA; none, so that a step is what a user gets.
COMPILER_OPTIONS: dict[str, Any] = {}


@dataclass(frozen=True)
class Program:
    """A compiled training step.

    Attributes:
      case: what it does.
      training: the method's.
      compiled: (carry, batch) -> carry; None if the device has too little memory.
      lower_seconds: time to trace it.
      compile_seconds: time for XLA to compile it.
      operations: floating-point operations, counted by XLA.
      temporary_bytes: memory besides arguments and results; None if XLA doesn't say.
    """

    case: Case
    training: Training
    compiled: Callable[[Carry, Batch], Carry] | None
    lower_seconds: float
    compile_seconds: float
    operations: float | None
    temporary_bytes: int | None


class Model:
    """A workload's model with its initial weights, which every program gets a copy of."""

    def __init__(self, workload: Workload, task: Task):
        self.workload = workload
        self.task = task
        init = jax.jit(task.init, compiler_options=COMPILER_OPTIONS)
        self.params, self.rest = init(jax.random.key(0))

    @property
    def parameters(self) -> int:
        """How many numbers are trained."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.params))

    def compile(self, case: Case) -> Program:
        """Traces and compiles one step; running out of memory is a result like others."""
        keep, n = case.keep or DEFAULT_KEEP, BATCHES * case.batch
        training = CONTENDERS[case.method].training(self.task, case.share, keep, n)
        shapes = jax.eval_shape(lambda: self._carry(training, self.params, self.rest))
        batch = random_batch(self.workload, case.batch)
        start = time.perf_counter()
        lowered = jax.jit(training.step, donate_argnums=0).lower(shapes, batch)
        lowering = time.perf_counter() - start
        compiled = or_too_large(lambda: lowered.compile(COMPILER_OPTIONS))
        compiling = time.perf_counter() - start - lowering
        if compiled is None:
            return Program(case, training, None, lowering, compiling, None, None)
        return Program(
            case,
            training,
            compiled,
            lowering,
            compiling,
            timing.operations(compiled),
            timing.temporary_bytes(compiled),
        )

    def warmed_up(self, program: Program) -> timing.Burst | None:
        """A function that has run a step; None if there is too little memory."""
        burst = or_too_large(lambda: self.ready(program))
        if burst is None or or_too_large(lambda: burst(1)) is None:
            return None
        return burst

    def ready(self, program: Program) -> timing.Burst | None:
        """A function that runs steps of the program, with all that they are given."""
        run = program.compiled
        if run is None:
            return None
        batch = jax.device_put(random_batch(self.workload, program.case.batch))
        params, rest = jax.tree.map(jnp.copy, (self.params, self.rest))
        carry = self._carry(program.training, params, rest)

        return timing.repeated(lambda carry: run(carry, batch), carry)

    def _carry(self, training: Training, params: PyTree, rest: PyTree) -> Carry:
        return Carry(params, rest, training.init(params))


def or_too_large(work: Callable[[], Any]) -> Any:
    """The result, or None if the device's memory isn't enough for it."""
    try:
        return work()
    except jax.errors.JaxRuntimeError as error:
        # A step that waits for another's results reports it as an internal error.
        if not any(sign in str(error) for sign in ("RESOURCE_EXHAUSTED", "Out of memory")):
            raise
        return None
