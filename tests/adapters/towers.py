"""Small adapted models that several tests build."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from softbio_jax.adapters import methods
from softbio_jax.adapters.config import NO_ADAPTERS, LoRAConfig
from softbio_jax.models.config import ComputeConfig, VisionConfig, vision_config
from softbio_jax.models.multitask import MultitaskModel
from softbio_jax.params import flatten, unflatten
from softbio_jax.tasks import TASKS
from tests.compiling import quick_jit

TASK_SPECS = tuple(TASKS.values())
LORA = LoRAConfig(rank=4, alpha=6.0)
DORA = dataclasses.replace(LORA, dora=True)

METHODS = {
    "lp": methods.lp(),
    "ap": methods.ap(),
    "ft2": methods.ft(2),
    "full": methods.full(),
    "lora": methods.lora(LORA),
    "lora_every_layer": methods.lora(LORA, targets=[".*"]),
    "lora_plus": methods.lora_plus(LORA),
    "rslora": methods.lora(dataclasses.replace(LORA, rslora=True)),
    "dora": methods.dora(LORA),
    "mtlora": methods.mtlora(DORA),
    "mtlora_task": methods.mtlora(LORA, base_input="task"),
    "mtlora_paper": methods.mtlora(LORA, placement="paper"),
}

# What the Lang and Spatial towers have and have not, in small.
TINY_DENSE = dataclasses.replace(
    vision_config("tiny-test"),
    name="tiny-dense",
    pooling="avg",
    layer_scale=0.1,
    class_token=False,
    ln_post=False,
    out_dim=None,
    layers=2,
)


def tower(variant: str = "tiny-test") -> VisionConfig:
    config = TINY_DENSE if variant == "tiny-dense" else vision_config(variant)
    if config.pooling == "none":
        config = dataclasses.replace(config, pooling="avg")
    return config


def model(method: methods.Method, variant: str = "tiny-test", tasks=TASK_SPECS, **kw):
    kw.setdefault("compute", ComputeConfig(matmul_precision="highest"))
    return MultitaskModel(tower(variant), adapters=method.rules, tail=method.tail, tasks=tasks, **kw)


def plain_twin(adapted: MultitaskModel) -> MultitaskModel:
    """The same model without adapters; its tail is the same."""
    return adapted.clone(adapters=NO_ADAPTERS)


def images(config: VisionConfig, batch: int = 2, seed: int = 0) -> jax.Array:
    size = config.image_size
    return jax.random.uniform(jax.random.key(seed), (batch, size, size, 3), minval=-1.0)


@functools.cache
def variables(adapted: MultitaskModel) -> dict:
    return quick_jit(adapted.init)(jax.random.key(0), images(adapted.config, 1))


def abstract(method: methods.Method, variant: str, tasks=TASK_SPECS) -> dict:
    """Shapes of the parameters, of any variant, without making them."""
    built = model(method, variant, tasks)
    size = built.config.patch_size
    return jax.eval_shape(lambda: built.init(jax.random.key(0), jnp.zeros((1, size, size, 3))))["params"]


def without_adapters(params: dict) -> dict:
    """The leaves that the plain model has."""
    names = ("lora_a", "lora_b", "dora_magnitude", "dora_base_norm", "task_probe")
    return unflatten({k: v for k, v in flatten(params).items() if k.split("/")[-1] not in names})


def stirred(params: dict, seed: int = 1, size: float = 0.1) -> dict:
    """Adapters away from their start: B no longer zero, magnitudes no longer the norms."""
    rng = np.random.default_rng(seed)
    flat = flatten(params)
    for path, leaf in flat.items():
        if path.endswith(("lora_b", "task_probe", "gamma")):
            flat[path] = leaf + size * rng.standard_normal(leaf.shape).astype(np.float32)
        elif path.endswith("dora_magnitude"):
            flat[path] = leaf * (1 + size * rng.standard_normal(leaf.shape).astype(np.float32))
    return unflatten(flat)
