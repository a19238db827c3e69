"""Where process 0 listens: the address as it is given, and whether it can be used."""

import socket
import time

from experiments.shell import cli


def host_and_port(coordinator: str) -> tuple[str, int]:
    """Takes an address apart; raises a UsageError if it isn't HOST:PORT."""
    host, _, port = coordinator.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    # Without its brackets an IPv6 address has no port of its own.
    is_host = bool(bare) and (":" not in bare or host != bare) and bare.strip() == bare
    if not (is_host and port.isascii() and port.isdecimal() and 1 <= int(port) <= 65535):
        raise cli.UsageError(
            "--coordinator must be HOST:PORT, with a port from 1 to 65535, such as "
            f"10.0.0.1:1234; got {coordinator!r}"
        )
    return bare, int(port)


def is_loopback(host: str) -> bool:
    """Whether all processes have to be on one machine to find each other there."""
    return host in ("localhost", "::1") or host.startswith("127.")


def check_free(host: str, port: int) -> None:
    """Raises a UsageError if process 0 can't listen there; JAX 0.12 crashes then."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # An earlier job's port is free, even while its last connections fade away.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host if is_loopback(host) else "", port))
        except OSError as error:
            raise cli.UsageError(
                f"--coordinator must have a port where process 0 can listen; got {port} "
                f"({error.strerror}): choose another one, the same for all processes"
            ) from error


def await_listener(host: str, port: int, seconds: float) -> None:
    """Waits for process 0 to listen; JAX would wait as well, but then abort."""
    until = time.monotonic() + seconds
    while True:
        left = until - time.monotonic()
        try:
            with socket.create_connection((host, port), timeout=max(left, 0.1)):
                return
        except OSError as error:
            if left <= 0:
                raise cli.UsageError(
                    f"--coordinator must be where process 0 listens; got no answer from "
                    f"{host}:{port} in --start-timeout {seconds:g} seconds "
                    f"({error.strerror or error}): start process 0, check the address, and "
                    f"that no firewall closes the port"
                ) from error
        time.sleep(0.2)
