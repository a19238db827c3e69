"""The package of this extra, asked for before anything else."""

from ..models._extra import needed

needed("equinox", "equinox")
