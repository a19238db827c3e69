"""The packages that a room needs besides the library's own, asked for by name."""

import importlib.util


def needed(room: str, *names: str) -> None:
    """Checks that they are installed, before anything of them is imported."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(
                f"ksam_jax.{room} needs {name}, which isn't installed: "
                f'pip install "ksam_jax[{room}]"',
                name=name,
            )
