"""The rows behind the main comparison: other sizes, other rankings, and controls."""

from dataclasses import replace
from functools import partial

import ksam_jax
from experiments.methods import explained
from experiments.methods.combinations import (
    k_momentum_at,
    k_sam_at,
    random_k_sam,
    remembered_k_momentum_sam,
    remembered_k_sam,
    sam_at,
    sam_last_fifth,
)
from experiments.methods.cost import Cost
from experiments.methods.method import Method, Words
from experiments.methods.palette import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILLION

REMEMBERED = "how-to/combine.md#remembered-losses-the-cheapest"

K_SAM = Method(
    "k_sam_following",
    "K-SAM, k follows training",
    ksam_jax.k_sam,
    ("rho",),
    VERMILLION,
    "*",
    "K-SAM",
    words=Words("`k_sam()`", "hardest, up to 1/3", "as many as carry the loss"),
    explained=(explained.K_SAM,),
    at=k_sam_at,
)
K_MOMENTUM = Method(
    "k_momentum_following",
    "K-Momentum-SAM, k follows training",
    ksam_jax.k_momentum_sam,
    ("rho", "decay"),
    VERMILLION,
    ">",
    "K-Momentum",
    words=Words("`k_momentum_sam()`", "none", "as many as carry the loss"),
    explained=(explained.MOMENTUM,),
    at=k_momentum_at,
)


def _losses_told(row: Method, name: str, label: str, marker: str) -> Method:
    """The same training, whose steps tell neither norms nor the cosine."""
    at = row.at
    assert at is not None
    return replace(
        row,
        name=name,
        label=label,
        gradient=partial(row.gradient, info="losses"),
        marker=marker,
        mark=None,
        by_default=False,
        words=None,
        at=lambda share, climbs: partial(at(share, climbs), info="losses"),
    )


ROWS = (
    K_SAM,
    K_MOMENTUM,
    _losses_told(K_SAM, "k_sam_losses", "K-SAM, k follows, losses told", "p"),
    _losses_told(
        K_MOMENTUM, "k_momentum_losses", "K-Momentum-SAM, k follows, losses told", "P"
    ),
    Method(
        "k_sam_over_batch",
        "K-SAM, k = 1/4, over the batch",
        partial(ksam_jax.k_sam, k=0.25, mean_over="batch"),
        ("rho",),
        VERMILLION,
        "h",
        "K-SAM 1/4 / N",
        by_default=False,
        words=Words("`k_sam(k=0.25)`", "hardest 1/4", "the same"),
        explained=(explained.K_SAM,),
    ),
    Method(
        "k_momentum_over_batch",
        "K-Momentum-SAM, k = 1/4, over the batch",
        partial(ksam_jax.k_momentum_sam, k=0.25, mean_over="batch"),
        ("rho", "decay"),
        VERMILLION,
        "H",
        "K-Momentum 1/4 / N",
        by_default=False,
        words=Words("`k_momentum_sam(k=0.25)`", "none", "hardest 1/4"),
        explained=(explained.MOMENTUM,),
    ),
    Method(
        "k_momentum_perturbed_aux",
        "K-Momentum-SAM, statistics at the perturbed weights, k = 1/4",
        partial(ksam_jax.k_momentum_sam, k=0.25, mean_over="chosen", aux="perturbed"),
        ("rho", "decay"),
        VERMILLION,
        "1",
        "K-Momentum, pert. stat.",
        by_default=False,
        cost=Cost(
            partial(ksam_jax.k_momentum_sam, aux="perturbed"),
            lambda k: 1 + 3 * k,
            lambda k: 1 + 2 * k,
            share=0.25,
            colour=GREEN,
            line=("v", "--"),
        ),
        explained=(explained.MOMENTUM,),
    ),
    Method(
        "momentum_perturbed_aux",
        "Momentum-SAM, statistics at the perturbed weights",
        partial(ksam_jax.momentum_sam, aux="perturbed"),
        ("rho", "decay"),
        SKY,
        "1",
        "Momentum, pert. stat.",
        by_default=False,
        explained=(explained.MOMENTUM,),
    ),
    Method(
        "esam_over_batch",
        "ESAM, over the batch",
        partial(ksam_jax.esam, gamma=0.5, mean_over="batch"),
        ("rho", "beta"),
        GREEN,
        "v",
        "ESAM / N",
        random=True,
        by_default=False,
        words=Words("`esam()`", "all", "1/2 that rose most"),
        explained=(explained.ESAM,),
    ),
    Method(
        "random_k_sam",
        "SAM on a random 1/4, both passes",
        random_k_sam,
        ("rho",),
        PURPLE,
        "X",
        "random 1/4, both",
        random=True,
        by_default=False,
        explained=(explained.K_SAM,),
    ),
    Method(
        "coverage_without_climb",
        "k follows training, no climb",
        partial(ksam_jax.k_momentum_sam, 0.0),
        (),
        BLACK,
        "P",
        "follows, no climb",
        by_default=False,
        at=k_momentum_at,
    ),
    Method(
        "sam_last_fifth",
        "SAM in the last fifth",
        sam_last_fifth,
        ("rho",),
        BLUE,
        "8",
        scheduled=True,
        by_default=False,
        at=sam_at,
    ),
    Method(
        "k_sam_remembered",
        "remembered K-SAM, k = 1/4",
        partial(remembered_k_sam, k=0.25),
        ("rho",),
        PURPLE,
        "D",
        "K-SAM, rem.",
        remembers=True,
        cost=Cost(
            partial(remembered_k_sam, 0.05),
            lambda k: 6 * k,
            share=0.25,
            aux_is_free=False,
            colour=ORANGE,
            line=("D", "-."),
        ),
        words=Words(
            f"[remembered K-SAM]({REMEMBERED})", "hardest 1/4, as remembered", "the same"
        ),
        explained=(explained.K_SAM, explained.REMEMBERED),
    ),
    Method(
        "k_momentum_remembered",
        "remembered K-Momentum-SAM, k = 1/4",
        partial(remembered_k_momentum_sam, k=0.25),
        ("rho", "decay"),
        PURPLE,
        "<",
        "K-Momentum, rem.",
        remembers=True,
        cost=Cost(
            partial(remembered_k_momentum_sam, 0.3, 0.9),
            lambda k: 3 * k,
            share=0.25,
            aux_is_free=False,
            colour=BLUE,
            line=("^", ":"),
        ),
        words=Words(
            f"[remembered K-Momentum-SAM]({REMEMBERED})",
            "none",
            "hardest 1/4, as remembered",
        ),
        explained=(explained.MOMENTUM, explained.REMEMBERED),
    ),
    Method(
        "k_sam_remembered_half",
        "remembered K-SAM, k = 1/2",
        partial(remembered_k_sam, k=0.5),
        ("rho",),
        PURPLE,
        "d",
        remembers=True,
        by_default=False,
        explained=(explained.K_SAM, explained.REMEMBERED),
    ),
    Method(
        "k_sam_skip_eighth",
        "K-SAM, k = 1/4, skip = 1/8",
        partial(ksam_jax.k_sam, k=0.25, skip=0.125, mean_over="chosen"),
        ("rho",),
        GREEN,
        "D",
        by_default=False,
        explained=(explained.K_SAM,),
    ),
    Method(
        "k_sam_half_skip_quarter",
        "K-SAM, k = 1/2, skip = 1/4",
        partial(ksam_jax.k_sam, k=0.5, skip=0.25, mean_over="chosen"),
        ("rho",),
        GREEN,
        "s",
        by_default=False,
        explained=(explained.K_SAM,),
    ),
    Method(
        "k_sam_skip_quarter",
        "K-SAM, k = 1/4, skip = 1/4",
        partial(ksam_jax.k_sam, k=0.25, skip=0.25, mean_over="chosen"),
        ("rho",),
        GREEN,
        "d",
        by_default=False,
        explained=(explained.K_SAM,),
    ),
)
