"""The stack of blocks: remat policies change what is kept, never what comes out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from softbio_jax.errors import UserError
from softbio_jax.models.blocks import REMAT_POLICIES
from softbio_jax.models.config import ComputeConfig
from tests.adapters import towers
from tests.compiling import quick_jit


@pytest.fixture(scope="module")
def passes():
    """policy -> features, gradient and how many numbers the backward pass keeps."""
    made = {}
    method = towers.METHODS["dora"]
    for remat in REMAT_POLICIES:
        model = towers.model(method, compute=ComputeConfig(remat=remat, matmul_precision="highest"))
        params = towers.stirred(towers.variables(model)["params"])
        x = towers.images(model.config, 4)

        def run(params, model=model, x=x):
            features = model.apply({"params": params}, x, method="features")
            return sum(jnp.sum(jnp.sin(f)) for f in features.values()), features

        def kept(params, run=run):
            _, pull = jax.vjp(lambda p: run(p)[0], params)
            return sum(leaf.size for leaf in jax.tree.leaves(pull) if hasattr(leaf, "size"))

        gradient, features = quick_jit(jax.grad(run, has_aux=True))(params)
        made[remat] = features, gradient, kept(params)
    return made


@pytest.mark.parametrize("remat", [name for name in REMAT_POLICIES if name != "none"])
def test_every_policy_computes_the_same(passes, remat):
    for ours, wanted in zip(passes[remat][:2], passes["none"][:2], strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5), ours, wanted)


def test_each_policy_keeps_less_than_the_one_before(passes):
    kept = [passes[remat][2] for remat in REMAT_POLICIES]
    assert kept == sorted(kept, reverse=True) and len(set(kept)) == len(kept)


def test_an_unknown_policy_is_told_in_one_line():
    model = towers.model(towers.METHODS["lp"], compute=ComputeConfig(remat="ful"))
    with pytest.raises(UserError, match="expected one of none, attention, dots, full, found 'ful'"):
        towers.variables(model)
