"""A large model on more and more devices: what the formulas say, as numbers and picture."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.costs.devices import formulas
from experiments.costs.devices.formulas import Cluster, Model, Traffic, Work
from experiments.methods.colours import BLACK, BLUE, GREEN, ORANGE, VERMILLION

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
K = 0.25

# Name -> what it is called, its work and traffic, its line.
LINES: dict[str, tuple[str, Work, Traffic, str, str]] = {
    "sgd": ("SGD", formulas.SGD_WORK, formulas.SGD, BLACK, "-"),
    "sam": ("SAM", formulas.SAM_WORK, formulas.TOGETHER, BLUE, "-"),
    "sam_m": ("SAM, m-sharpness", formulas.SAM_WORK, formulas.APART, BLUE, "--"),
    "k_sam": (
        "K-SAM, k = 1/4",
        formulas.k_sam_work(K),
        formulas.SELECTING_TOGETHER,
        VERMILLION,
        "-",
    ),
    "k_sam_m": (
        "K-SAM, k = 1/4, m-sharpness",
        formulas.k_sam_work(K),
        formulas.SELECTING_APART,
        VERMILLION,
        "--",
    ),
    "k_sam_half_m": (
        "K-SAM, k = 1/2, m-sharpness",
        formulas.k_sam_work(0.5),
        formulas.SELECTING_APART,
        ORANGE,
        "--",
    ),
    "k_momentum_sam": (
        "K-Momentum-SAM, k = 1/4",
        formulas.k_momentum_sam_work(K),
        formulas.BY_PAST,
        GREEN,
        "-",
    ),
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
    for name, (_, work, traffic, _, _) in LINES.items():
        pairs = [
            formulas.step_seconds(work, traffic, VIT_S, cluster, devices, BATCH, overlap)
            for devices in DEVICES
        ]
        found[name] = {
            "step_seconds": [step for step, _ in pairs],
            "waiting_seconds": [waiting for _, waiting in pairs],
        }
    return found


def draw(computed: Mapping[str, Any], path: Path) -> None:
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


def _draw_cluster(
    axes: Axes, computed: Mapping[str, Any], cluster: Mapping[str, Any]
) -> None:
    sgd = cluster["methods"]["sgd"]["step_seconds"]
    for name, (label, _, _, colour, style) in LINES.items():
        seconds = cluster["methods"][name]["step_seconds"]
        ratios = [mine / its for mine, its in zip(seconds, sgd, strict=True)]
        axes.plot(computed["devices"], ratios, style, color=colour, label=label, lw=2)
    _mark_waiting(axes, computed["devices"], cluster["methods"]["sgd"])
    axes.set_xscale("log", base=2)
    axes.set_xticks(computed["devices"], [str(n) for n in computed["devices"]])
    axes.set_ylim(0, 2.2)
    axes.set_xlabel("devices")
    axes.set_title(f"{cluster['name']}: {cluster['bandwidth'] / 1e9:g} GB/s per device")
    axes.grid(color="#E5E5E5")
    axes.spines[["top", "right"]].set_visible(False)


def _mark_waiting(
    axes: Axes, devices: Sequence[int], sgd: Mapping[str, Sequence[float]]
) -> None:
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
