"""A large model on more and more devices: what the formulas say, as numbers and picture."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.costs.devices import formulas
from experiments.costs.devices.contents import ClusterTimes, Computed, Seconds
from experiments.costs.devices.formulas import Cluster, Model
from experiments.costs.devices.spread import APART
from experiments.methods import METHODS, without_share
from experiments.methods.cost import Cost, Traffic, Work
from experiments.methods.palette import ORANGE

# ViT-S/16 (DeiT-S) at 224 x 224: 22e6 parameters and 4.6e9 multiply-adds per image (Liu et
# al., Swin Transformer, 2021, table 1).
VIT_S = Model("ViT-S/16", 22e6, 2 * 4.6e9)
# Google Cloud's documentation of TPU v5e (2026): 197e12 bf16 operations per second, 1600
# Gbit/s between chips, a two-dimensional torus. Utilization and latency are assumed.
POD = Cluster("TPU v5e pod", 197e12, 0.4, 200e9, 1e-6, is_torus=True)
# The same chips as single hosts on a network of 100 Gbit/s.
HOSTS = replace(
    POD, name="hosts on 100 Gbit/s", bandwidth=12.5e9, latency=1e-5, is_torus=False
)
BATCH = 4096
DEVICES = tuple(2**i for i in range(9))


class Line(NamedTuple):
    """A method in the picture: as its row has it, but for what is said here.

    Attributes:
      method: its row.
      is_apart: whether each device climbs on its own.
      share: instead of the row's.
      colour: as well.
    """

    method: str
    is_apart: bool = False
    share: float | None = None
    colour: str | None = None

    @property
    def cost(self) -> Cost:
        """The row's."""
        cost = METHODS[self.method].cost
        assert cost is not None
        return cost

    @property
    def drawn_in(self) -> str:
        """Its colour."""
        return self.colour or self.cost.colour or METHODS[self.method].colour

    @property
    def label(self) -> str:
        """What the picture calls it."""
        share = self.share or self.cost.share
        words = f", {self.cost.share_name} = {Fraction(share)}" if share else ""
        return without_share(self.method) + words + APART * self.is_apart

    @property
    def work(self) -> Work:
        """What it computes."""
        assert self.cost.work is not None
        return self.cost.work(self.share or self.cost.share or 1.0)

    @property
    def traffic(self) -> Traffic:
        """What it sends."""
        found = self.cost.apart if self.is_apart else self.cost.traffic
        assert found is not None
        return found


LINES = {
    "sgd": Line("sgd"),
    "sam": Line("sam"),
    "sam_m": Line("sam", is_apart=True),
    "k_sam": Line("k_sam"),
    "k_sam_m": Line("k_sam", is_apart=True),
    "k_sam_half_m": Line("k_sam", is_apart=True, share=0.5, colour=ORANGE),
    "k_momentum_sam": Line("k_momentum_sam"),
}


def compute(chosen: Mapping[str, float], overlap: float) -> dict[str, Any]:
    """Seconds of a step of each method on each cluster, and those spent waiting.

    Args:
      chosen: inputs that replace the pod's.
      overlap: see `formulas.step_seconds`.
    """
    clusters = {"pod": replace(POD, **chosen), "hosts": HOSTS}
    return {
        "model": asdict(VIT_S),
        "batch": BATCH,
        "devices": DEVICES,
        "overlap": overlap,
        "clusters": {
            name: {**asdict(cluster), "methods": _seconds(cluster, overlap)}
            for name, cluster in clusters.items()
        },
    }


def _seconds(cluster: Cluster, overlap: float) -> dict[str, Any]:
    found = {}
    for name, line in LINES.items():
        step = partial(formulas.step_seconds, line.work, line.traffic, VIT_S, cluster)
        pairs = [step(devices, BATCH, overlap) for devices in DEVICES]
        found[name] = {
            "step_seconds": [step for step, _ in pairs],
            "waiting_seconds": [waiting for _, waiting in pairs],
        }
    return found


def draw(computed: Computed, path: Path) -> None:
    """One panel per cluster: a step's time against SGD's on as many devices."""
    figure = Figure(figsize=(11, 5.2), layout="constrained")
    panels: Sequence[Axes] = figure.subplots(1, 2, sharey=True)
    for axes, cluster in zip(panels, computed["clusters"].values(), strict=True):
        _draw_cluster(axes, computed, cluster)
    panels[0].set_ylabel("time of a step / SGD's on as many devices")
    figure.suptitle(
        f"Computed, not measured: {computed['model']['name']}, "
        f"batch {computed['batch']:,} in all, against the number of devices"
    )
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=150)


def _draw_cluster(axes: Axes, computed: Computed, cluster: ClusterTimes) -> None:
    sgd = cluster["methods"]["sgd"]["step_seconds"]
    for name, line in LINES.items():
        seconds = cluster["methods"][name]["step_seconds"]
        ratios = [mine / its for mine, its in zip(seconds, sgd, strict=True)]
        colour, style = line.drawn_in, "--" if line.is_apart else "-"
        axes.plot(computed["devices"], ratios, style, color=colour, label=line.label, lw=2)
    _mark_waiting(axes, computed["devices"], cluster["methods"]["sgd"])
    axes.set_xscale("log", base=2)
    axes.set_xticks(computed["devices"], [str(n) for n in computed["devices"]])
    axes.set_ylim(0, 2.2)
    axes.set_xlabel("devices")
    axes.set_title(f"{cluster['name']}: {cluster['bandwidth'] / 1e9:g} GB/s per device")
    axes.grid(color="#E5E5E5")
    axes.spines[["top", "right"]].set_visible(False)


def _mark_waiting(axes: Axes, devices: Sequence[int], sgd: Seconds) -> None:
    """Grey, where SGD spends most of its step waiting."""
    pairs = zip(sgd["step_seconds"], sgd["waiting_seconds"], strict=True)
    most = [n for n, (step, waits) in zip(devices, pairs, strict=True) if waits > step / 2]
    if not most:
        return
    axes.axvspan(most[0], devices[-1], color="#EEEEEE", zorder=0)
    axes.annotate(
        "grey: SGD waits for the network\nmore than half the time",
        (devices[-1], 0.1),
        xytext=(-4, 0),
        textcoords="offset points",
        color="#666666",
        ha="right",
    )
