"""What a compiled step computes: the counter itself, and no gradient of a frozen weight."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from softbio_jax.adapters import methods
from softbio_jax.adapters.config import LoRAConfig
from softbio_jax.data.augment import AugmentConfig
from softbio_jax.losses import balancing
from softbio_jax.losses.balancing import BalancingConfig
from softbio_jax.models.config import ComputeConfig, vision_config
from softbio_jax.models.multitask import MultitaskModel
from softbio_jax.params import flatten, partition
from softbio_jax.runs import optimizer, state
from softbio_jax.runs.config import OptimizerConfig
from softbio_jax.runs.step import StepConfig, make_train_step
from softbio_jax.tasks import TASKS
from tests.compiling import quick_jit
from tests.planning.compiled_cost import matmul_flops

TASK_SPECS = tuple(TASKS.values())
L14 = vision_config("PE-Core-L14-336")
# L14 an eighth as wide, with as many blocks and tokens for its width.
SMALL = dataclasses.replace(
    L14, name="L14 in small", width=128, heads=2, mlp_width=512, out_dim=128, image_size=112
)
NARROW = LoRAConfig(rank=8, alpha=8.0)  # L14's 64 in small
GROUPS = ("adapter_a", "adapter_b", "magnitude", "heads", "pooling", "blocks", "log_var")
CPU = ComputeConfig(attention="xla")


def compiled_flops(function, *shapes):
    return matmul_flops(quick_jit(function).lower(*shapes).compile().as_text())


def test_products_in_loops_count_as_often_as_they_run():
    def loop(x, w):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]

    x, w = jnp.zeros((3, 8)), jnp.zeros((5, 8, 8))
    assert compiled_flops(loop, x, w) == 5 * 2 * 3 * 8 * 8


def test_batched_products():
    x, y = jnp.zeros((7, 3, 8)), jnp.zeros((7, 8, 4))
    assert compiled_flops(jnp.matmul, x, y) == 2 * 7 * 3 * 8 * 4


def built(method, config):
    model = MultitaskModel(config, compute=CPU, adapters=method.rules, tail=method.tail, tasks=TASK_SPECS)
    size = config.patch_size
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, size, size, 3))))
    return model, shapes


def forward_flops(method, config, batch=1):
    model, shapes = built(method, config)
    size = config.image_size
    images = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32)
    return compiled_flops(
        lambda v, x: model.apply(v, x, method="features"), {"params": shapes["params"]}, images
    )


def step_flops(method, config, batch):
    """One optimizer step with clipping on, augmentation off."""
    model, shapes = built(method, config)
    loss = BalancingConfig()
    params = shapes["params"] | {
        "balance": jax.eval_shape(lambda: balancing.init([task.name for task in TASK_SPECS], loss))
    }
    groups = method.label(list(flatten(params)))
    trainable, frozen = partition(params, lambda path: groups[path] != methods.FROZEN)
    settings = OptimizerConfig(rates=dict.fromkeys(GROUPS, 1e-3), clip_norm=1.0)
    trained = {path: group for path, group in groups.items() if group != methods.FROZEN}
    adamw = optimizer.make(settings, trained, steps=10)
    still = AugmentConfig(
        flip=0.0,
        brightness=0.0,
        contrast=0.0,
        saturation=0.0,
        degrees=0.0,
        translate=0.0,
        scale=(1.0, 1.0),
        erase=0.0,
    )
    step = make_train_step(model, adamw, StepConfig(augment=still, balancing=loss))
    start = jax.eval_shape(lambda t, s: state.create(t, s, adamw), trainable, shapes["batch_stats"])
    size = config.image_size
    rows = {"image": ((batch, size, size, 3), jnp.uint8), "index": ((batch,), jnp.int32)}
    for task in TASK_SPECS:
        rows |= {f"labels/{task.name}": ((batch,), jnp.int32), f"mask/{task.name}": ((batch,), jnp.bool_)}
    shapes = {name: jax.ShapeDtypeStruct(*row) for name, row in rows.items()}
    return compiled_flops(step, start, frozen, shapes, jax.eval_shape(lambda: jax.random.key(0)))


@pytest.mark.parametrize(
    ("method", "most"),
    [
        (methods.lora(NARROW), 2.15),
        pytest.param(methods.dora(NARROW), 2.15, marks=pytest.mark.long),
        pytest.param(methods.ft(4), 1.40, marks=pytest.mark.long),
        pytest.param(methods.ap(), 1.05, marks=pytest.mark.long),
        (methods.lp(), 1.02),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_step_has_no_gradient_of_a_frozen_weight(method, most):
    ratio = step_flops(method, SMALL, 4) / forward_flops(method, SMALL, 4)
    print(f"{method.name}: {ratio:.3f}")
    assert ratio <= most


@pytest.mark.long
def test_a_full_step_costs_three_forwards():
    method = methods.full()
    ratio = step_flops(method, SMALL, 4) / forward_flops(method, SMALL, 4)
    print(f"full: {ratio:.3f}")
    assert 2.9 < ratio < 3.1


def test_mtlora_costs_at_most_a_tenth_more_than_lora():
    config = LoRAConfig(rank=64, alpha=64.0)
    lora = forward_flops(methods.lora(config), L14)
    plain = forward_flops(methods.lp(), L14)
    print(f"plain {plain / 2e9:.1f} GMAC, lora {lora / plain:.3f}")
    for name, method in {
        "shared": methods.mtlora(config),
        "task": methods.mtlora(config, base_input="task"),
        "paper": methods.mtlora(config, placement="paper"),
    }.items():
        ratio = forward_flops(method, L14) / lora
        print(f"mtlora {name}: {ratio:.3f}")
        assert 1.0 < ratio <= 1.10
