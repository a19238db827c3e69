"""What scaling.json has."""

from typing import TypedDict

from experiments.shell.formats import Format, Made


class Count(TypedDict):
    """A method's step, spread in one way; see `experiments.costs.devices.counts`."""

    method: str
    way: str
    operations: float
    temporary_bytes: int
    argument_bytes: int
    collectives: dict[str, list[int]]


class Counted(TypedDict):
    """One model's steps."""

    model: str
    batch: int
    devices: int
    parameters: int
    arrays: int
    sharded_arrays: int
    sharded_share: float
    rows: list[Count]


class Seconds(TypedDict):
    """Of a step on more and more devices."""

    step_seconds: list[float]
    waiting_seconds: list[float]


class ClusterTimes(TypedDict):
    """See `experiments.costs.devices.formulas.Cluster`; and what it takes there."""

    name: str
    peak: float
    utilization: float
    bandwidth: float
    latency: float
    is_torus: bool
    methods: dict[str, Seconds]


class LargeModel(TypedDict):
    """See `experiments.costs.devices.formulas.Model`."""

    name: str
    parameters: float
    forward: float
    bytes_per_number: int


class Computed(TypedDict):
    """A large model on clusters."""

    model: LargeModel
    batch: int
    devices: list[int]
    overlap: float
    clusters: dict[str, ClusterTimes]


class Scaling(Made):
    """What was counted, and what was computed."""

    counted: Counted
    computed: Computed


SCALING = Format(
    "results of experiments.scaling", Scaling, version=1, remedy="run it again"
)
