"""Pictures: a comparison, and the loss around solutions. One file each.

None of them computes a loss: they draw numbers, and what is written above them is the
caller's.
"""

from experiments.plots.alignments import Aligned as Aligned
from experiments.plots.alignments import alignment as alignment
from experiments.plots.comparison import accuracy_against_cost as accuracy_against_cost
from experiments.plots.lines import Curve as Curve
from experiments.plots.planes import Solution as Solution
from experiments.plots.planes import loss_plane as loss_plane
from experiments.plots.races import race as race
from experiments.plots.slices import loss_slice as loss_slice
from experiments.plots.spectra import spectrum as spectrum
from experiments.plots.style import GRID as GRID
from experiments.plots.style import TEXT as TEXT
from experiments.plots.surfaces import Surface as Surface
from experiments.plots.surfaces import loss_surface as loss_surface
from experiments.plots.training import sharpness_over_training as sharpness_over_training
