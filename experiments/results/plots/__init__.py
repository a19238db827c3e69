"""Pictures: a comparison, and the loss around solutions. One file each.

None of them computes a loss: they draw numbers, and what is written above them is the
caller's.
"""

from experiments.results.plots.alignments import Aligned as Aligned
from experiments.results.plots.alignments import alignment as alignment
from experiments.results.plots.comparison import (
    accuracy_against_cost as accuracy_against_cost,
)
from experiments.results.plots.lines import Curve as Curve
from experiments.results.plots.planes import Solution as Solution
from experiments.results.plots.planes import loss_plane as loss_plane
from experiments.results.plots.races import race as race
from experiments.results.plots.slices import loss_slice as loss_slice
from experiments.results.plots.spectra import spectrum as spectrum
from experiments.results.plots.style import GRID as GRID
from experiments.results.plots.style import TEXT as TEXT
from experiments.results.plots.surfaces import Surface as Surface
from experiments.results.plots.surfaces import loss_surface as loss_surface
from experiments.results.plots.training import (
    sharpness_over_training as sharpness_over_training,
)
