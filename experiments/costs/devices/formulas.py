"""What a step sends and how long it takes on many devices, from formulas.

Nothing here is measured: the inputs say what a device and its network can do, and the
result says which of the two a method is limited by.
"""

import math
from dataclasses import dataclass

from experiments.methods.cost import Traffic, Work


@dataclass(frozen=True)
class Model:
    """A model, as far as it matters here.

    Attributes:
      name: in words.
      parameters: how many.
      forward: floating-point operations of one example's forward pass.
      bytes_per_number: of a gradient as it is sent.
    """

    name: str
    parameters: float
    forward: float
    bytes_per_number: int = 4


@dataclass(frozen=True)
class Cluster:
    """Devices and the network between them.

    Attributes:
      name: in words.
      peak: operations per second of a device.
      utilization: the share of it that training reaches.
      bandwidth: bytes per second that a device sends in an all-reduce.
      latency: seconds of one hop.
      is_torus: whether the devices form a square torus, where a message passes twice its
        side's length; otherwise one ring.
    """

    name: str
    peak: float
    utilization: float
    bandwidth: float
    latency: float
    is_torus: bool


def bytes_reduced(traffic: Traffic, model: Model) -> float:
    """Bytes of the arrays in all-reduces, per device and step."""
    gradients = (1 + traffic.climb) * model.parameters
    return model.bytes_per_number * gradients + 4 * traffic.numbers


def bytes_gathered(traffic: Traffic, batch: int) -> int:
    """Bytes of losses that `groups` under `jax.jit` gathers; none in `jax.shard_map`."""
    return 4 * batch if traffic.selects else 0


def all_reduce_seconds(cluster: Cluster, size: float, devices: int) -> float:
    """An all-reduce of `size` bytes: each device sends nearly twice its size."""
    if devices == 1:
        return 0.0
    side = math.sqrt(devices) if cluster.is_torus else devices
    hops = (4 if cluster.is_torus else 2) * (side - 1)
    return 2 * size * (devices - 1) / devices / cluster.bandwidth + hops * cluster.latency


def step_seconds(
    work: Work,
    traffic: Traffic,
    model: Model,
    cluster: Cluster,
    devices: int,
    batch: float,
    overlap: float,
) -> tuple[float, float]:
    """Seconds of a step, and those of them in which devices wait for the network.

    Args:
      work: of the method.
      traffic: of the method.
      model: what is trained.
      cluster: what it is trained on.
      devices: how many.
      batch: examples of all devices together.
      overlap: the share of a backward pass under which its gradients' all-reduce can
        hide, in [0, 1].
    """
    each = batch / devices * model.forward / (cluster.peak * cluster.utilization)
    message = all_reduce_seconds(
        cluster, model.parameters * model.bytes_per_number, devices
    )
    hidden = overlap * each
    waits = max(0.0, message - hidden * work.descent_backward)
    waits += traffic.climb * max(0.0, message - hidden * work.climb_backward)
    return each * work.total + waits, waits
