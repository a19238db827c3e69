"""Fashion-MNIST with WRN-28-10, as far as SAM's paper says how."""

from dataclasses import replace

from experiments.configs.cifar import WRN_28_10
from experiments.configs.cifar_methods import USUAL
from experiments.configs.experiment import Row
from experiments.configs.published import FASHION

# The paper says how WRN-28-10 is trained on CIFAR, and for this dataset what came out.
BASE = replace(WRN_28_10, dataset="fashion_mnist")
ORIGIN = (
    "All as on CIFAR-10 with this network (Foret et al., ICLR 2021), since what the paper "
    "changes for Fashion-MNIST isn't known to us; "
)

FASHION_MNIST = tuple(
    Row(
        name=f"fashion_mnist_wrn28_10_{method}",
        experiment=replace(BASE, method=method, **own.values),
        published=FASHION.get(method),
        origin=ORIGIN + own.origin,
    )
    for method, own in USUAL.items()
)
