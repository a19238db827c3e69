"""The counts and the model as Markdown, for docs/scaling.md."""

from collections.abc import Sequence

from experiments.costs.devices import formulas, pod
from experiments.costs.devices.contents import Computed, Count, Counted, Scaling
from experiments.costs.devices.spread import METHODS, WAYS
from experiments.pages.benchmarks import how

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]
TITLES = {
    "shard_map": "`jax.shard_map`, `axis_name`",
    "jit": "`jax.jit`, `groups`",
    "fsdp": "`jax.jit`, `groups`, FSDP",
}


def sent(content: Scaling) -> Table:
    """Of each method: collectives and bytes, by the formula and as counted."""
    counted = content["counted"]
    headers = (
        "collectives of a step, size of their arrays",
        "formula",
        *(TITLES[way] for way in WAYS),
    )
    rows = []
    for name, method in METHODS.items():
        model = formulas.Model(counted["model"], counted["parameters"], 0)
        expected = formulas.bytes_reduced(method.traffic, model)
        times = 1 + method.traffic.climb
        formula = f"{times} all-reduce{'s' * (times > 1)}, {_bytes(expected)}"
        found = (_collectives(_row(counted, name, way)) for way in WAYS)
        rows.append((method.label, formula, *found))
    return headers, rows


def kept(content: Scaling) -> Table:
    """Of each method: operations and memory of a device."""
    counted = content["counted"]
    headers = (
        "per device",
        "operations / (one device's / devices), in the three ways",
        "temporary memory: one device alone",
        *(TITLES[way] for way in WAYS),
        "weights, state, batch: replicated",
        "FSDP",
    )
    return headers, [_kept(counted, name) for name in METHODS]


def computed(content: Scaling, folder: str) -> str:
    """The picture, and what it was computed from."""
    model = content["computed"]
    inputs = "; ".join(
        f"{c['name']}: {c['peak']:.3g} operations/s at {c['utilization']:.0%}, "
        f"{c['bandwidth'] / 1e9:g} GB/s, {c['latency'] * 1e6:g} µs per hop, "
        f"{'torus' if c['is_torus'] else 'ring'}"
        for c in model["clusters"].values()
    )
    return (
        f"![Computed time of a step against the number of devices]({folder}/devices.png)"
        f"\n\nComputed from: {model['model']['name']}, "
        f"{model['model']['parameters'] / 1e6:g} million parameters, "
        f"{model['model']['forward'] / 1e9:g} billion operations in a forward pass of one "
        f"example, gradients sent in {model['model']['bytes_per_number']} bytes each, "
        f"{model['batch']:,} examples per step on all devices together, overlap "
        f"{model['overlap']:g}; {inputs}.\n\n{_crossing(model)}"
    )


def note(content: Scaling) -> str:
    """How it was counted."""
    counted = content["counted"]
    return (
        f"Counted in XLA's program for {counted['devices']} virtual CPU devices: "
        f"{counted['model']}, {counted['parameters']:,} parameters in "
        f"{counted['arrays']} arrays, a batch of {counted['batch']}. FSDP spreads "
        f"{counted['sharded_arrays']} arrays with {counted['sharded_share']:.1%} of the "
        f"parameters along their longest axis, and the optimizer's state with them; the "
        f"step returns them as they came. {how(content)}"
    )


def _crossing(model: Computed) -> str:
    """Where K-SAM with a synchronized climb stops being faster than SGD."""
    said = []
    for cluster in model["clusters"].values():
        steps = {name: m["step_seconds"] for name, m in cluster["methods"].items()}
        slower = [
            n
            for n, mine, its in zip(
                model["devices"], steps["k_sam"], steps["sgd"], strict=True
            )
            if mine > its
        ]
        when = f"from {slower[0]} devices on" if slower else "nowhere in this range"
        said.append(f"{cluster['name']}: {when}")
    return (
        f"Where {pod.LINES['k_sam'].label} with a synchronized climb takes longer than "
        f"SGD: {'; '.join(said)}."
    )


def _row(counted: Counted, name: str, way: str) -> Count:
    (row,) = (r for r in counted["rows"] if (r["method"], r["way"]) == (name, way))
    return row


def _collectives(row: Count) -> str:
    parts = [
        f"{times} {kind}{'s' * (times > 1)}, {_bytes(size)}"
        for kind, (times, size) in row["collectives"].items()
    ]
    return "; ".join(parts)


def _kept(counted: Counted, name: str) -> tuple[str, ...]:
    alone = _row(counted, name, "")
    each = {way: _row(counted, name, way) for way in WAYS}
    share = alone["operations"] / counted["devices"]
    ratios = (f"{each[way]['operations'] / share:.3f}" for way in WAYS)
    return (
        METHODS[name].label,
        ", ".join(ratios),
        _bytes(alone["temporary_bytes"]),
        *(_bytes(each[way]["temporary_bytes"]) for way in WAYS),
        _bytes(each["jit"]["argument_bytes"]),
        _bytes(each["fsdp"]["argument_bytes"]),
    )


def _bytes(size: float) -> str:
    units: Sequence[str] = ("B", "kB", "MB")
    power = min(int(size >= 1e3) + int(size >= 1e6), 2)
    return f"{size / 1e3**power:.4g} {units[power]}"
