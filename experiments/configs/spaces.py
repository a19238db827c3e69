"""Where each method's hyperparameters are searched for.

Every method gets the same number of trials, whatever the number of its hyperparameters:
SGD, which has two, is searched more densely than F-SAM, which has five.
"""

import math
from dataclasses import dataclass

from experiments.methods import METHODS


@dataclass(frozen=True)
class Interval:
    """A range of values; `log` spreads trials evenly over its logarithm."""

    low: float
    high: float
    log: bool = True

    def at(self, position: float) -> float:
        """The value at a position from 0 to 1, to four significant digits."""
        if self.log:
            low, high = math.log(self.low), math.log(self.high)
            value = math.exp(low + position * (high - low))
        else:
            value = self.low + position * (self.high - self.low)
        return float(f"{value:.4g}")

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}, {'log' if self.log else 'linear'}"


LEARNING_RATE = Interval(0.01, 1.0)
WEIGHT_DECAY = Interval(1e-5, 3e-2)

# Of every method with hyperparameters of its own.
OWN = {
    "sam": {"rho": Interval(0.02, 2.0)},
    # Its radius is measured in the metric of the weights' size, so it is larger.
    "asam": {"rho": Interval(0.1, 10.0)},
    "random_sam": {"rho": Interval(0.02, 2.0)},
    # The hardest examples' gradient is followed further, so its radius is smaller.
    "k_sam": {"rho": Interval(0.01, 1.0)},
    "k_sam_half": {"rho": Interval(0.01, 1.0)},
    "esam": {"rho": Interval(0.02, 2.0), "beta": Interval(0.3, 1.0, log=False)},
    "esam_over_batch": {"rho": Interval(0.02, 2.0), "beta": Interval(0.3, 1.0, log=False)},
    "f_sam": {
        "rho": Interval(0.02, 2.0),
        "sigma": Interval(0.1, 1.5, log=False),
        "decay": Interval(0.5, 0.99, log=False),
    },
    "k_sam_following": {"rho": Interval(0.01, 1.0)},
    "k_sam_losses": {"rho": Interval(0.01, 1.0)},
    "k_sam_over_batch": {"rho": Interval(0.01, 1.0)},
    "random_k_sam": {"rho": Interval(0.01, 1.0)},
    "sam_last_fifth": {"rho": Interval(0.02, 2.0)},
    "k_sam_remembered": {"rho": Interval(0.01, 1.0)},
    "k_sam_remembered_half": {"rho": Interval(0.01, 1.0)},
    "k_sam_skip_eighth": {"rho": Interval(0.01, 1.0)},
    "k_sam_skip_quarter": {"rho": Interval(0.01, 1.0)},
    "k_sam_half_skip_quarter": {"rho": Interval(0.01, 1.0)},
} | {
    # Its climb follows old gradients, so its radius is larger; decay 0 is the last alone.
    name: {"rho": Interval(0.02, 2.0), "decay": Interval(0.0, 0.95, log=False)}
    for name in (
        "momentum_sam",
        "k_momentum_sam",
        "k_momentum_following",
        "k_momentum_losses",
        "k_momentum_over_batch",
        "k_momentum_perturbed_aux",
        "k_momentum_remembered",
        "momentum_perturbed_aux",
    )
}


def space(method: str, learning_rate: Interval) -> dict[str, Interval]:
    """The ranges of all that is searched for a method, with the dataset's learning rate."""
    common = {"learning_rate": learning_rate, "weight_decay": WEIGHT_DECAY}
    return common | (OWN[method] if METHODS[method].own else {})
