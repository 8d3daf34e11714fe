"""Balancers against values by hand, and what becomes of absent tasks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from softbio_jax.losses import balancing
from softbio_jax.losses.balancing import BalancingConfig
from softbio_jax.losses.masked import MaskedMean

TASKS = ("age", "gender", "emotion")
LOG_VARS = {"age": 0.3, "gender": -1.2, "emotion": 2.0}
LEARNED = ("uncertainty", "liebel_koerner")


def mean(value, count=4.0):
    return MaskedMean(jnp.float32(value * count), jnp.float32(count))


LOSSES = {"age": mean(1.03), "gender": mean(0.12), "emotion": mean(0.41)}


def parameters(values):
    return {task: {"log_var": jnp.float32(value)} for task, value in values.items()}


def test_uncertainty_is_exp_minus_s_l_plus_half_s():
    total, weights = balancing.total(LOSSES, parameters(LOG_VARS), BalancingConfig())
    wanted = sum(
        np.exp(-s) * value + s / 2 for s, value in zip(LOG_VARS.values(), (1.03, 0.12, 0.41), strict=True)
    )
    np.testing.assert_allclose(total, wanted, rtol=1e-6)
    np.testing.assert_allclose(weights["gender"], np.exp(1.2), rtol=1e-6)


def test_liebel_koerner_adds_log_one_plus_sigma_squared():
    config = BalancingConfig(kind="liebel_koerner")
    total, _ = balancing.total(LOSSES, parameters(LOG_VARS), config)
    wanted = sum(
        np.exp(-s) * value + np.log(1 + np.exp(s))
        for s, value in zip(LOG_VARS.values(), (1.03, 0.12, 0.41), strict=True)
    )
    np.testing.assert_allclose(total, wanted, rtol=1e-6)


# Of the losses above: 1/(2 L), and 2 / (L + sqrt(L^2 + 4 L)).
@pytest.mark.parametrize(
    ("kind", "optimum"), [("uncertainty", (0.485, 4.167, 1.220)), ("liebel_koerner", (0.605, 2.429, 1.140))]
)
def test_the_weights_at_the_optimum(kind, optimum):
    config = BalancingConfig(kind=kind)
    for (task, loss), wanted in zip(LOSSES.items(), optimum, strict=True):
        s = jnp.float32(-np.log(wanted))
        slope = jax.grad(lambda s: balancing.total({task: loss}, {task: {"log_var": s}}, config)[0])  # noqa: B023
        np.testing.assert_allclose(slope(s), 0, atol=2e-3)
        assert slope(s - 0.5) < -0.01 and slope(s + 0.5) > 0.01


@pytest.mark.parametrize("kind", LEARNED)
def test_an_absent_task_drops_out_whole(kind):
    config = BalancingConfig(kind=kind)
    losses = LOSSES | {"emotion": MaskedMean(jnp.float32(0), jnp.float32(0))}
    others = {task: LOSSES[task] for task in ("age", "gender")}
    args = parameters(LOG_VARS), config
    np.testing.assert_array_equal(balancing.total(losses, *args)[0], balancing.total(others, *args)[0])
    gradient = jax.grad(lambda p: balancing.total(losses, p, config)[0])(args[0])
    assert float(gradient["emotion"]["log_var"]) == 0
    assert float(gradient["age"]["log_var"]) != 0


@pytest.mark.parametrize("kind", LEARNED)
def test_the_clamp_bounds_the_weight_and_stops_its_gradient(kind):
    config = BalancingConfig(kind=kind, clamp=(-1.0, 1.0))
    for s in (-3.0, 3.0):
        _, weights = balancing.total({"age": mean(1.0)}, parameters({"age": s}), config)
        np.testing.assert_allclose(weights["age"], np.exp(-np.sign(s)), rtol=1e-6)
        slope = jax.grad(lambda p: balancing.total({"age": mean(1.0)}, p, config)[0])(parameters({"age": s}))
        assert float(slope["age"]["log_var"]) == 0


def test_fixed_weights_are_those_given():
    config = BalancingConfig(kind="fixed", weights={"age": 2.0, "emotion": 0.5})
    total, weights = balancing.total(LOSSES, {}, config)
    np.testing.assert_allclose(total, 2 * 1.03 + 0.12 + 0.5 * 0.41, rtol=1e-6)
    assert {task: float(w) for task, w in weights.items()} == {"age": 2.0, "gender": 1.0, "emotion": 0.5}
    assert balancing.init(TASKS, config) == {}


class TestRunningMean:
    CONFIG = BalancingConfig(kind="running_mean", momentum=0.9)

    def test_mean_starts_at_the_first_loss_and_moves_by_the_momentum(self):
        means = balancing.init_means(TASKS, self.CONFIG)
        means = balancing.update_means(means, LOSSES, self.CONFIG)
        np.testing.assert_allclose(means["age"]["mean"], 1.03, rtol=1e-6)
        means = balancing.update_means(means, LOSSES | {"age": mean(2.0)}, self.CONFIG)
        np.testing.assert_allclose(means["age"]["mean"], 0.9 * 1.03 + 0.1 * 2.0, rtol=1e-6)

    def test_an_absent_task_keeps_its_mean_and_an_unseen_one_has_no_weight(self):
        absent = LOSSES | {"emotion": MaskedMean(jnp.float32(0), jnp.float32(0))}
        means = balancing.update_means(balancing.init_means(TASKS, self.CONFIG), absent, self.CONFIG)
        assert float(means["emotion"]["mean"]) == 0
        _, weights = balancing.total(absent, {}, self.CONFIG, means)
        assert float(weights["emotion"]) == 0
        np.testing.assert_allclose(weights["age"] + weights["gender"], 2, rtol=1e-6)
        means = balancing.update_means(means, LOSSES, self.CONFIG)
        again = balancing.update_means(means, absent, self.CONFIG)
        assert float(again["emotion"]["mean"]) == float(means["emotion"]["mean"]) > 0

    def test_weights_are_inverse_to_the_means_and_sum_to_the_tasks(self):
        means = balancing.update_means(balancing.init_means(TASKS, self.CONFIG), LOSSES, self.CONFIG)
        total, weights = balancing.total(LOSSES, {}, self.CONFIG, means)
        np.testing.assert_allclose(sum(weights.values()), 3, rtol=1e-6)
        for task, loss in LOSSES.items():
            np.testing.assert_allclose(weights[task] * loss.value, total / 3, rtol=1e-5)

    def test_no_gradient_passes_through_the_weights(self):
        def total(value):
            losses = LOSSES | {"age": mean(value)}
            start = balancing.init_means(TASKS, self.CONFIG)
            means = balancing.update_means(start, losses, self.CONFIG)
            total, weights = balancing.total(losses, {}, self.CONFIG, means)
            return total, weights["age"]

        (_, weight), slope = jax.value_and_grad(total, has_aux=True)(1.03)
        np.testing.assert_allclose(slope, weight, rtol=1e-5)
