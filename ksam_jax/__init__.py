"""Sharpness-aware training as Optax transformations.

Chain one in front of any optimizer:

    tx = optax.chain(ksam_jax.k_sam(rho=0.05, k=0.25), optax.sgd(0.1, momentum=0.9))
    opt_state = tx.init(params)
    updates, opt_state = tx.update(
        None, opt_state, params, loss_fn=loss_fn, batch=batch
    )
"""

# The methods of the papers, and the general form that all of them are.
from .methods._adaptive_momentum_sam import adaptive_momentum_sam as adaptive_momentum_sam
from .methods._asam import asam as asam
from .methods._common import Common as Common
from .methods._esam import esam as esam
from .methods._f_sam import f_sam as f_sam
from .methods._gsam import gsam as gsam
from .methods._k_momentum_sam import k_momentum_sam as k_momentum_sam
from .methods._k_sam import k_sam as k_sam
from .methods._le_sam import le_sam as le_sam
from .methods._look_sam import look_sam as look_sam
from .methods._mean_gradient import mean_gradient as mean_gradient
from .methods._momentum_sam import momentum_sam as momentum_sam
from .methods._random_sam import random_sam as random_sam
from .methods._sam import sam as sam
from .methods._sharpness_aware import sharpness_aware as sharpness_aware
from .methods._vasso import vasso as vasso

# isort: split
# When: several methods, of which one runs in each step.
from .around._every import every as every
from .around._join_methods import join_methods as join_methods

# isort: split
# Question 2: direction and length of the climb.
from .parts._direction import follow_ema as follow_ema
from .parts._direction import random_mask as random_mask
from .parts._direction import subtract_ema as subtract_ema
from .parts._radius import scale_to_adaptive_radius as scale_to_adaptive_radius
from .parts._radius import scale_to_budget as scale_to_budget
from .parts._radius import scale_to_radius as scale_to_radius

# isort: split
# Questions 1 and 3: which examples take part, or what to climb along instead.
from .loss._rows import Chosen as Chosen
from .parts._ascent import Ascent as Ascent
from .parts._ascent import past_descent as past_descent
from .parts._coverage import by_coverage as by_coverage
from .parts._examples import everything as everything
from .parts._examples import highest_loss as highest_loss
from .parts._examples import largest_increase as largest_increase
from .parts._examples import random_subset as random_subset
from .parts._following import CoverageState as CoverageState
from .parts._ranking import top_k_mask as top_k_mask
from .parts._remembered import RememberedLosses as RememberedLosses
from .parts._remembered import highest_remembered_loss as highest_remembered_loss
from .parts._selection import Evidence as Evidence
from .parts._selection import Selection as Selection

# isort: split
# Question 4: what is made of the two gradients.
from .parts._combine import add_orthogonal as add_orthogonal
from .parts._combine import remember_orthogonal as remember_orthogonal
from .parts._combine import subtract_orthogonal as subtract_orthogonal

# isort: split
# Losses.
from .loss._per_example import per_example as per_example

# isort: split
# Around a method and an optimizer that looks at the loss, as line searches do.
from .around._hand_on_loss import hand_on_loss as hand_on_loss

# isort: split
# Around a method, or a whole chain: training in float16.
from .around._loss_scale import LossScaleState as LossScaleState
from .around._loss_scale import dynamic_loss_scale as dynamic_loss_scale

# isort: split
# Reading results out of an optimizer state.
from .step._info import SharpnessAwareInfo as SharpnessAwareInfo
from .step._reading import get_info as get_info
from .step._reading import take_aux as take_aux
from .step._state import SharpnessAwareState as SharpnessAwareState
from .step._state import SwitchState as SwitchState

__version__ = "0.1.0"
