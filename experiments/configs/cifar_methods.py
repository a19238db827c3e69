"""The methods' own hyperparameters on CIFAR, and where each comes from.

Nothing here was searched: what authors give is taken from there, and what they don't give
follows from it by a rule that the row states.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple


class Own(NamedTuple):
    """Values for the fields of an Experiment, and a sentence about their origin."""

    values: dict[str, float]
    origin: str


@dataclass(frozen=True)
class Esam:
    """ESAM's hyperparameters for one model, and whose code gives them for which."""

    rho: float
    beta: float
    gamma: float
    model: str


# Du et al., ICLR 2022, the authors' code.
ESAM = {
    "resnet18": Esam(0.05, 0.6, 0.5, "ResNet-18"),
    "wrn28_10": Esam(0.1, 0.5, 0.5, "WRN-28-10"),
    "pyramidnet110": Esam(0.2, 0.5, 0.5, "PyramidNet-110 (270)"),
    "vgg16": Esam(0.05, 0.6, 0.5, "ResNet-18"),
}
# Of SAM on WRN-28-10 (Foret et al., ICLR 2021).
WRN_RADIUS = {"cifar10": 0.05, "cifar100": 0.1}
# Of ASAM (Kwon et al., ICML 2021, the authors' code).
ASAM_RADIUS = {"cifar10": 0.5, "cifar100": 1.0}
# Of F-SAM (Li et al., CVPR 2024, the authors' code) on CIFAR-100; half of it is ours.
F_SAM_RADIUS = {"cifar10": 0.1, "cifar100": 0.2}
# What our searches on digits and on MNIST chose for K-Momentum-SAM, rounded.
DECAY = 0.6


def sam_radius(dataset: str, model: str) -> float:
    """SAM's radius, from which others follow."""
    return WRN_RADIUS[dataset] if model == "wrn28_10" else ESAM[model].rho


def _sgd(dataset: str, model: str) -> Own:
    del dataset, model
    return Own({}, "SGD has nothing else to choose.")


def _sam(dataset: str, model: str) -> Own:
    rho = sam_radius(dataset, model)
    if model == "wrn28_10":
        why = "as in SAM's paper for this row"
    elif model == "vgg16":
        why = "SAM's usual one (Foret et al., ICLR 2021); not searched"
    else:
        why = "that of ESAM's code for ESAM on this model, for want of SAM's; not searched"
    return Own({"rho": rho}, f"Radius {rho:g}: {why}.")


def _asam(dataset: str, model: str) -> Own:
    del model
    rho = ASAM_RADIUS[dataset]
    return Own(
        {"rho": rho, "eta": 0.01},
        f"Radius {rho:g} for this dataset and eta 0.01: ASAM's code (Kwon et al., ICML "
        f"2021), which scales by the gains of normalization too, and we don't; not "
        f"searched for this model.",
    )


def _k_sam(dataset: str, model: str) -> Own:
    rho = sam_radius(dataset, model) / 2
    return Own(
        {"rho": rho},
        f"The paper's k and radius (Ni et al. 2022, arXiv 2210.12864) aren't known to us: "
        f"k is ours, and the radius {rho:g} is half of the SAM row's, since K-SAM wants a "
        f"smaller one; not searched.",
    )


def _esam(dataset: str, model: str) -> Own:
    del dataset
    esam = ESAM[model]
    here = "" if model != "vgg16" else ", for want of theirs for VGG16; not searched"
    return Own(
        {"rho": esam.rho, "beta": esam.beta, "gamma": esam.gamma},
        f"Radius {esam.rho:g}, beta {esam.beta:g} and gamma {esam.gamma:g}: ESAM's code "
        f"for {esam.model} (Du et al., ICLR 2022){here}. It masks whole tensors; we mask "
        f"single weights, as the paper does.",
    )


def _f_sam(dataset: str, model: str) -> Own:
    rho = F_SAM_RADIUS[dataset]
    code = "F-SAM's code for ResNet-18 on CIFAR-100 (Li et al., CVPR 2024)"
    if (dataset, model) == ("cifar100", "resnet18"):
        origin = f"Radius {rho:g}, sigma 1 and decay 0.6: {code}."
    elif dataset == "cifar100":
        origin = (
            f"Radius {rho:g}, sigma 1 and decay 0.6: {code}, for want of theirs for this "
            f"model; not searched."
        )
    else:
        origin = (
            f"Sigma 1 and decay 0.6: {code}. Radius {rho:g}: half of theirs there, as "
            f"SAM's and ASAM's authors halve theirs for CIFAR-10; not searched."
        )
    return Own({"rho": rho, "sigma": 1.0, "decay": 0.6}, origin)


def _k_momentum_sam(dataset: str, model: str) -> Own:
    rho = sam_radius(dataset, model)
    return Own(
        {"rho": rho, "decay": DECAY},
        f"No paper we know of has settings for this method: k is ours, the radius {rho:g} "
        f"is the SAM row's, and the decay {DECAY:g} is, rounded, what our searches on "
        f"digits and MNIST chose; not searched here.",
    )


# By method: (dataset, model) -> its own hyperparameters.
OWN: dict[str, Callable[[str, str], Own]] = {
    "sgd": _sgd,
    "sam": _sam,
    "asam": _asam,
    "k_sam": _k_sam,
    "k_sam_half": _k_sam,
    "esam": _esam,
    "f_sam": _f_sam,
    "k_momentum_sam": _k_momentum_sam,
}


# Where neither dataset nor network has any of its own, as sentences' ends.
USUAL = {
    "sgd": Own({}, "SGD has nothing else to choose."),
    "sam": Own({"rho": 0.05}, "the radius is SAM's usual 0.05; not searched."),
    "k_sam": Own(
        {"rho": 0.025},
        "the radius is half of SAM's usual 0.05, since K-SAM wants a smaller one; not "
        "searched.",
    ),
    "k_momentum_sam": Own(
        {"rho": 0.05, "decay": DECAY},
        f"the radius is SAM's usual 0.05, and the decay {DECAY:g} is, rounded, what our "
        "searches on digits and MNIST chose; not searched here.",
    ),
}
