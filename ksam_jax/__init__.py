"""Sharpness-aware training as Optax transformations.

Chain one in front of any optimizer:

    tx = optax.chain(ksam_jax.k_sam(rho=0.05, k=0.25), optax.sgd(0.1, momentum=0.9))
    opt_state = tx.init(params)
    updates, opt_state = tx.update(
        None, opt_state, params, loss_fn=loss_fn, batch=batch
    )
"""

# The methods of the papers, and the general form that all of them are.
from ._methods import asam as asam
from ._methods import esam as esam
from ._methods import f_sam as f_sam
from ._methods import k_sam as k_sam
from ._methods import random_sam as random_sam
from ._methods import sam as sam
from ._momentum import k_momentum_sam as k_momentum_sam
from ._momentum import momentum_sam as momentum_sam
from ._sharpness_aware import sharpness_aware as sharpness_aware

# isort: split
# Question 2: direction and length of the climb.
from ._direction import random_mask as random_mask
from ._direction import subtract_ema as subtract_ema
from ._perturbation import scale_to_adaptive_radius as scale_to_adaptive_radius
from ._perturbation import scale_to_radius as scale_to_radius

# isort: split
# Questions 1 and 3: which examples take part, if there is a climb of its own.
from ._past_descent import past_descent as past_descent
from ._remembered import RememberedLosses as RememberedLosses
from ._remembered import highest_remembered_loss as highest_remembered_loss
from ._selection import Selection as Selection
from ._selection import everything as everything
from ._selection import highest_loss as highest_loss
from ._selection import largest_increase as largest_increase
from ._selection import random_subset as random_subset
from ._selection import top_k_mask as top_k_mask

# isort: split
# Losses.
from ._forward import per_example as per_example

# isort: split
# Around a method, or a whole chain: training in float16.
from ._loss_scale import LossScaleState as LossScaleState
from ._loss_scale import dynamic_loss_scale as dynamic_loss_scale

# isort: split
# Reading results out of an optimizer state.
from ._info import SharpnessAwareInfo as SharpnessAwareInfo
from ._reading import get_info as get_info
from ._reading import take_aux as take_aux
from ._state import SharpnessAwareState as SharpnessAwareState

__version__ = "0.1.0"
