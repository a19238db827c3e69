"""The packages of this extra, asked for before anything else."""

import importlib.util

for _name in ("matfree", "rich"):
    if importlib.util.find_spec(_name) is None:
        raise ModuleNotFoundError(
            f"ksam_jax.sharpness needs {_name}, which isn't installed: "
            f'pip install "ksam_jax[sharpness]"',
            name=_name,
        )
