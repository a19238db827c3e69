"""Programs of several processes: how they find each other, share a batch, and stop.

A program takes `Options`, calls `start` before anything else of JAX, and keeps what it
returns open while it trains:

    with distributed.start(options) as watch:
        mesh = sharded.data_mesh()
        ...
        watch.done(step)

It runs by `sys.exit(distributed.run(main, None))`. Then, if a process is lost, each of the
others ends with one line that says so, and with a status that isn't zero: at once, or when
no sign of life has come for `heartbeat_timeout` seconds.
"""

import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn

import jax
from tyro.conf import arg

from experiments.processes.coordinator import (
    await_listener,
    check_free,
    host_and_port,
    is_loopback,
)
from experiments.processes.watch import Alone, Watch, leave
from experiments.shell import cli

AGAIN = "Start all processes again with the same command."


@dataclass(frozen=True)
class Options:
    """Which process this is; a program's own options inherit from these."""

    coordinator: Annotated[
        str | None,
        arg(
            metavar="HOST:PORT",
            help="Where process 0 runs, and a free port there. Goes with --num-processes "
            "and --process-id; without all three, a cluster that JAX knows (TPU pod, "
            "Slurm, Open MPI, Kubernetes) is used, or this is the only process.",
        ),
    ] = None
    num_processes: Annotated[
        int | None,
        arg(metavar="INT", help="How many processes there are; 1 alone: no other, anyway."),
    ] = None
    process_id: Annotated[
        int | None, arg(metavar="INT", help="Which one this is, counted from 0.")
    ] = None
    start_timeout: Annotated[
        int, arg(help="Seconds to wait for the other processes to start.")
    ] = 300
    heartbeat_timeout: Annotated[
        int, arg(help="Seconds without a sign of life after which a process is lost.")
    ] = 60


# --------------------------------------------------------------------------- starting


def start(
    options: Options, again: str = AGAIN, *, preemption: bool = False
) -> Watch | Alone:
    """Joins the other processes, if there are any. Before anything else of JAX.

    Args:
      options: all three of coordinator, number of processes and process id; or none, for
        a cluster that JAX detects, or else a single process.
      again: what to do when a process was lost, for the message.
      preemption: whether the program asks JAX, as `harness.stopping` does, if one of the
        processes got a SIGTERM. Otherwise it ends such a process, as usual.

    Raises:
      UsageError: if the options are wrong, or process 0 can't be reached.
    """
    check(options)
    # With it JAX catches SIGTERM; a program that never asks would go on as if nothing had
    # happened.
    jax.config.update("jax_enable_preemption_service", preemption)
    if options.coordinator is not None:
        return _join(options, again)
    return Alone() if options.num_processes == 1 else _detect(options, again)


def check(options: Options) -> None:
    """Raises a UsageError if the options don't say which process this is."""
    cli.at_least("start-timeout", options.start_timeout, 1)
    cli.at_least("heartbeat-timeout", options.heartbeat_timeout, 2)
    number, which = options.num_processes, options.process_id
    if number is not None:
        cli.at_least("num-processes", number, 1)
    if which is not None and number is not None and not 0 <= which < number:
        raise cli.UsageError(
            f"--process-id must be at least 0 and below --num-processes, which is {number};"
            f" got {which}"
        )
    if not (number == 1 and options.coordinator is None):
        _check_all_or_none(options)
    if options.coordinator is not None:
        host_and_port(options.coordinator)


def _check_all_or_none(options: Options) -> None:
    names = ("coordinator", "num_processes", "process_id")
    missing = [
        f"--{name.replace('_', '-')}" for name in names if getattr(options, name) is None
    ]
    if missing and len(missing) < len(names):
        raise cli.UsageError(
            "--coordinator, --num-processes and --process-id must be given together; "
            f"add {' and '.join(missing)}, or leave out all three"
        )


def _join(options: Options, again: str) -> Watch:
    assert options.coordinator is not None
    _check_coordinator(options, *host_and_port(options.coordinator))
    name = f"process {options.process_id} of {options.num_processes}"
    watch = Watch(again)
    watch.starting(
        f"all {options.num_processes} processes had met at {options.coordinator}, for "
        f"which it waits --start-timeout {options.start_timeout} seconds"
    )
    try:
        _initialize(options, **_told(options))
    except jax.errors.JaxRuntimeError as error:
        watch.close()
        raise cli.UsageError(
            f"{name} can't use --coordinator {options.coordinator}: "
            f"{str(error).splitlines()[0]}"
        ) from error
    watch.started(name)
    return watch


def _check_coordinator(options: Options, host: str, port: int) -> None:
    """Raises a UsageError if the processes can't meet there."""
    if options.process_id == 0:
        check_free(host, port)
    else:
        await_listener(host, port, options.start_timeout)


def _told(options: Options) -> dict[str, Any]:
    """What JAX is told instead of looking for a cluster."""
    assert options.coordinator is not None
    host, _ = host_and_port(options.coordinator)
    return {
        "coordinator_address": options.coordinator,
        "num_processes": options.num_processes,
        "process_id": options.process_id,
        "cluster_detection_method": "deactivate",
        # Not for all the world, if all processes are on one machine.
        "coordinator_bind_address": options.coordinator if is_loopback(host) else None,
    }


def _initialize(options: Options, **which: Any) -> None:
    jax.distributed.initialize(
        **which,
        initialization_timeout=options.start_timeout,
        heartbeat_timeout_seconds=options.heartbeat_timeout,
        shutdown_timeout_seconds=options.start_timeout,
    )


def _detect(options: Options, again: str) -> Watch | Alone:
    """Joins the cluster that JAX detects, if there is one."""
    watch = Watch(again)
    watch.starting("it had joined the cluster that JAX detected")
    try:
        _initialize(options)
    except Exception as error:
        watch.close()
        # What JAX says when it detected none. Other words are an error: better than so
        # many single processes that each train a model of their own.
        if isinstance(error, ValueError) and "coordinator_address" in str(error):
            return Alone()
        raise cli.UsageError(
            f"JAX can't join the cluster it detected ({error}); give --coordinator, "
            f"--num-processes and --process-id, or --num-processes 1 for a single process"
        ) from error
    watch.started(f"process {jax.process_index()} of {jax.process_count()}")
    return watch


# --------------------------------------------------------------------------- stopping


def end(status: int) -> NoReturn:
    """Ends the process with this status.

    After a failure at once: threads may be waiting for a file, or another process, that
    will never come, and Python waits for threads.
    """
    if status:
        leave(status)
    sys.exit(0)


def run(main: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None) -> int:
    """As `cli.run`, for a program of several processes."""
    try:
        status = cli.run(main, argv)
    except Exception:
        if not jax.distributed.is_initialized():
            raise
        traceback.print_exc()
        status = 1
    if status and jax.distributed.is_initialized():
        leave(status)
    return status
