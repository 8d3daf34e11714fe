"""Adapters put on a tower whose weights came from elsewhere."""

import numpy as np
import pytest

from softbio_jax.adapters.dense import reset_adapters
from softbio_jax.adapters.merge import merge
from softbio_jax.params import flatten, unflatten
from tests.adapters import towers
from tests.compiling import quick_jit


def mixed_with_other_weights(model):
    """A drawn model's leaves with other tower weights in place, and those weights alone."""
    drawn = towers.variables(model)["params"]
    rng = np.random.default_rng(2)
    loaded = {
        path: leaf * rng.uniform(0.5, 2.0, leaf.shape).astype(np.float32)
        for path, leaf in flatten(towers.without_adapters(drawn)).items()
    }
    return unflatten(flatten(drawn) | loaded), unflatten(loaded)


def features(model, params):
    x = towers.images(model.config)
    return quick_jit(lambda p: model.apply({"params": p}, x, method="features"))(params)


@pytest.mark.parametrize("name", ["dora", "mtlora"])
def test_after_a_reset_the_adapted_model_is_the_loaded_tower(name):
    model = towers.model(towers.METHODS[name])
    mixed, loaded = mixed_with_other_weights(model)
    wanted = features(towers.plain_twin(model), loaded)
    for task, ours in features(model, reset_adapters(mixed)).items():
        np.testing.assert_allclose(ours, wanted[task], atol=5e-6)
    kept = flatten(reset_adapters(mixed))
    for path, leaf in flatten(loaded).items():
        np.testing.assert_array_equal(kept[path], leaf, err_msg=path)


def test_a_tasks_probe_starts_from_the_loaded_one():
    model = towers.model(towers.METHODS["mtlora"])
    mixed, loaded = mixed_with_other_weights(model)
    assert not np.allclose(mixed["pool"]["task_probe"][1], loaded["pool"]["probe"])
    np.testing.assert_array_equal(
        reset_adapters(mixed)["pool"]["task_probe"], np.stack([loaded["pool"]["probe"]] * 3)
    )


def test_a_norm_of_other_weights_would_be_wrong_once_b_has_moved():
    model = towers.model(towers.METHODS["dora"])
    mixed, _ = mixed_with_other_weights(model)
    for params, holds in ((reset_adapters(mixed), True), (mixed, False)):
        moved = towers.stirred(params)
        plain = features(towers.plain_twin(model), merge(moved, model.adapters))
        agrees = np.allclose(features(model, moved)["age"], plain["age"], atol=1e-4)
        assert agrees == holds
