"""A run that is killed behind a boundary, or a change of k, resumes to the same bits.

This file is also the program that trains and is killed:
`python tests/test_when_killed.py train turns FOLDER`.
"""

import functools
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from problems import (
    mlp,
    mlp_batch,
    mlp_loss_with_aux,
)
from turns import float32 as float32
from turns import float64 as float64

import ksam_jax

# ------------------------------------------------------- killed, across the boundary

TRAINED, BOUNDARY = 40, 6


def turns() -> Any:
    """Momentum, draws and Adam, none of them at rest."""
    return ksam_jax.join_methods(
        [
            optax.chain(ksam_jax.momentum_sam(0.1, decay=0.8), optax.sgd(0.05, 0.9)),
            optax.chain(
                ksam_jax.look_sam(0.1, period=2, num_microbatches=2), optax.adam(0.01)
            ),
            optax.chain(ksam_jax.random_sam(0.1, m=4, seed=3), optax.sgd(0.05, 0.9)),
        ],
        [BOUNDARY, 2 * BOUNDARY],
    )


def following() -> Any:
    """A k that changes at the boundary, too."""
    k = ksam_jax.by_coverage(0.6, (1 / 4, 1 / 2, 1.0))
    return optax.chain(ksam_jax.k_sam(0.1, k=k), optax.sgd(0.2, 0.9))


METHODS = {"turns": turns, "following": following}


def trainer(name: str) -> Any:
    """A step of what the program trains."""
    tx: Any = METHODS[name]()
    loss = ksam_jax.per_example(mlp_loss_with_aux)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, state: Any, batch: Any) -> Any:
        updates, state = tx.update(
            None, state, params, loss_fn=loss, batch=batch, has_aux=True
        )
        _, state = ksam_jax.take_aux(state)
        return optax.apply_updates(params, updates), state

    return tx, step


def trained(name: str, start: Any, first: int, save: Callable[[int, Any], None]) -> Any:
    """Runs steps `first` to the last on batches that the number of the step names."""
    (params, state), (_, step) = start, trainer(name)
    for t in range(first, TRAINED):
        params, state = step(params, state, mlp_batch(t))
        save(t, (params, state))
    return params, state


def newest(folder: Path) -> int:
    """The last checkpoint that was written to the end, by the step that made it."""
    return max(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def train_and_save(name: str, folder: Path) -> None:
    """Checkpoints each step, says so, and waits to be killed in the end."""
    params = mlp(width=4).params

    with ocp.StandardCheckpointer() as checkpointer:

        def save(t: int, run: Any) -> None:
            checkpointer.save(folder / str(t), run)
            checkpointer.wait_until_finished()
            print(t, flush=True)

        trained(name, (params, trainer(name)[0].init(params)), 0, save)
    signal.pause()


def resume(name: str, folder: Path, steps: list[int]) -> None:
    """Prints the weights in the end of runs that go on from checkpoints; -1 is none."""
    found = {}
    for last in steps:
        params = mlp(width=4).params
        start = (params, trainer(name)[0].init(params))
        if last >= 0:
            with ocp.StandardCheckpointer() as checkpointer:
                start = checkpointer.restore(folder / str(last), start)
        run = trained(name, start, last + 1, lambda t, run: None)
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(run)]
        found[last] = [leaf.tobytes().hex() for leaf in leaves]
    print(json.dumps(found))


def started(*args: Any) -> Any:
    own = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(__file__).parents[1])}
    kept = {n: x for n, x in os.environ.items() if not n.startswith(("XLA_", "JAX_"))}
    command = [sys.executable, __file__, *map(str, args)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=kept | own)


def wait_for(process: Any, line: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ready, _, _ = select.select([process.stdout], [], [], 1.0)
        found = process.stdout.readline() if ready else ""
        if found.strip() == line:
            return
        assert process.poll() is None, process.stderr.read()[-3000:]
    raise TimeoutError(line)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_run_that_is_killed_behind_a_boundary_resumes_to_the_same_bits(name, tmp_path):
    killed = started("train", name, tmp_path)
    try:
        wait_for(killed, str(BOUNDARY + 1))
    finally:
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    last = newest(tmp_path)
    assert BOUNDARY + 1 <= last < TRAINED - 1
    points = [-1, 2, BOUNDARY - 1, BOUNDARY, last]
    resumed = started("resume", name, tmp_path, *points)
    out, error = resumed.communicate(timeout=150)
    assert resumed.returncode == 0, error[-3000:]
    found = json.loads(out)
    assert set(found) == set(map(str, points))
    uninterrupted = found["-1"]
    assert len(uninterrupted) > 15
    for point in points:
        assert found[str(point)] == uninterrupted


def test_k_changes_at_the_boundary_and_one_program_runs_all_sizes():
    tx, step = trainer("following")
    params = mlp(width=4).params
    state, seen, traces = tx.init(params), [], []

    @jax.jit
    def counted(*arguments: Any) -> Any:
        traces.append(1)
        return step(*arguments)

    for t in range(BOUNDARY + 2):
        params, state = counted(params, state, mlp_batch(t))
        seen.append(float(ksam_jax.get_info(state).examples))
    assert len({*seen}) == 3
    assert seen[BOUNDARY] != seen[BOUNDARY - 1]
    assert traces == [1]


if __name__ == "__main__":
    jax.config.update("jax_numpy_dtype_promotion", "standard")  # Adam needs it.
    if sys.argv[1] == "train":
        train_and_save(sys.argv[2], Path(sys.argv[3]))
    else:
        resume(sys.argv[2], Path(sys.argv[3]), [int(n) for n in sys.argv[4:]])
