"""Programs run whatever a user has told JAX about mixed dtypes."""

import jax
import jax.numpy as jnp
import pytest

from experiments.shell import cli


def test_a_program_may_mix_dtypes_where_strict_promotion_is_set():
    mixed = []

    def main(argv):
        mixed.append(jnp.ones(2, jnp.int32) + jnp.ones(2, jnp.bfloat16))
        return len(argv)

    with jax.numpy_dtype_promotion("strict"):
        assert cli.run(main, []) == 0
        with pytest.raises(jax.dtypes.TypePromotionError, match="strict"):
            main([])
    assert mixed[0].tolist() == [2, 2]
