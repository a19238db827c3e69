"""Work on the host, and back from there to where the user computes."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax


@contextlib.contextmanager
def on_the_host() -> Iterator[Any]:
    """New arrays are the host's; yields what makes a context as it was outside."""
    config: Any = jax.config
    device, checks = config.jax_default_device, config.jax_debug_nans

    @contextlib.contextmanager
    def outside() -> Iterator[None]:
        jitted, placed = jax.disable_jit(False), jax.default_device(device)
        with jitted, placed, jax.debug_nans(checks):
            yield

    with jax.default_device(_device()):
        yield outside


def _device() -> Any:
    """The host's, or where JAX was told to do without it the default one."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return jax.local_devices()[0]
