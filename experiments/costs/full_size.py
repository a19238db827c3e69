"""What full_size.json has: the steps of the largest models, counted."""

from typing import Any, TypedDict

from experiments.shell.formats import Format, Made


class Subject(TypedDict):
    """What a step's figures depend on."""

    experiment: dict[str, Any]
    devices: int
    jax: str


class Seconds(TypedDict):
    """What it took."""

    trace: float
    compile: float


class Described(TypedDict):
    """What a step is of, in words."""

    method: str
    is_baseline: bool
    dataset: str
    model: str


class Memory(TypedDict):
    """As XLA has planned it."""

    temporary_bytes: int
    argument_bytes: int
    output_bytes: int
    alias_bytes: int


class Step(Described, Memory):
    """A config's step, per device."""

    of: Subject
    batch_per_device: int
    parameters: int
    forward_operations: float
    operations: float
    state_bytes: int
    batch_bytes: int
    seconds: Seconds


class FullSize(Made):
    """What full_size.json has."""

    complete: bool
    devices: int
    configs: dict[str, Step]


FULL_SIZE = Format(
    "results of experiments.full_size", FullSize, version=1, remedy="delete it"
)
