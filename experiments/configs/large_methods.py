"""The methods' own hyperparameters on GLUE and ImageNet: nobody's figures, not searched.

No paper that we have gives them for these datasets, and what a search would take isn't at
hand. Each is a usual value, or follows from one by the rule that its sentence states.
"""

from experiments.configs.cifar_methods import USUAL, Own

# Of ESAM's code for WRN-28-10, and for PyramidNet-110, which it gives as well.
BETA = GAMMA = 0.5
# Of F-SAM's code for ResNet-18 on CIFAR-100.
SIGMA, DECAY = 1.0, 0.6

METHODS = {
    "sgd": USUAL["sgd"],
    "adamw": Own({}, "AdamW has nothing else to choose."),
    "sam": USUAL["sam"],
    "k_sam": Own(
        {"rho": 0.025},
        "k is ours, and the radius is half of SAM's usual 0.05, since K-SAM wants a "
        "smaller one; not searched.",
    ),
    "k_sam_half": Own(
        {"rho": 0.025},
        "k is what K-SAM's published cost on ImageNet, 65 % of SAM's (Ni et al. 2022, "
        "arXiv 2210.12864), comes to by our count of operations; the radius is half of "
        "SAM's usual 0.05, since K-SAM wants a smaller one; not searched.",
    ),
    "esam": Own(
        {"rho": 0.05, "beta": BETA, "gamma": GAMMA},
        "beta and gamma are those of ESAM's code for its larger networks on CIFAR (Du et "
        "al., ICLR 2022), and the radius is SAM's usual 0.05; not searched.",
    ),
    "f_sam": Own(
        {"rho": 0.05, "sigma": SIGMA, "decay": DECAY},
        "sigma and decay are those of F-SAM's code for ResNet-18 on CIFAR-100 (Li et al., "
        "CVPR 2024), and the radius is SAM's usual 0.05; not searched.",
    ),
}
