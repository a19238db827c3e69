"""How sharp a minimum is: measures over a dataset, of any model and loss.

An optional part, `pip install "ksam_jax[sharpness]"`. With the losses and batches of
training:

    from ksam_jax import sharpness

    found = sharpness.sam_sharpness(loss_fn, params, batches, rho=0.05)
    print(found.value, sharpness.top_eigenvalues(loss_fn, params, batches).values)
"""

from . import _extra as _extra

# isort: split
# How much the loss rises within a radius.
from ._arguments import NonFiniteError as NonFiniteError
from ._ascent import Sharpness as Sharpness
from ._ascent import adaptive_sharpness as adaptive_sharpness
from ._ascent import sam_sharpness as sam_sharpness
from ._groups import MSharpness as MSharpness
from ._groups import m_sharpness as m_sharpness
from ._groups import per_example_sharpness as per_example_sharpness

# isort: split
# The Hessian of the mean loss.
from ._density import Spectrum as Spectrum
from ._density import spectral_density as spectral_density
from ._eigenvalues import Eigenvalues as Eigenvalues
from ._eigenvalues import top_eigenvalues as top_eigenvalues
from ._hessian import hessian_vector_product as hessian_vector_product
from ._trace import Trace as Trace
from ._trace import hessian_trace as hessian_trace

# isort: split
# Whether k examples stand for all.
from ._alignment import Alignment as Alignment
from ._alignment import gradient_alignment as gradient_alignment
from ._alignment import recommend_k as recommend_k

# isort: split
# The loss along directions.
from ._directions import Plane as Plane
from ._directions import filter_normalized as filter_normalized
from ._directions import plane_through as plane_through
from ._directions import random_direction as random_direction
from ._landscape import loss_along as loss_along
