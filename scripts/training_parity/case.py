"""What is trained: a run's configuration, an encoder cut to size, and the start of both sides."""

import dataclasses
from typing import Any

import jax
import numpy as np

from softbio_jax.adapters.methods import FROZEN
from softbio_jax.checkpoints.pretrained import load_pretrained
from softbio_jax.data.augment import AugmentConfig
from softbio_jax.interop import stacking
from softbio_jax.interop.goldens import named_state, named_uniform
from softbio_jax.interop.official import OFFICIAL, vision_shapes
from softbio_jax.losses.balancing import BalancingConfig
from softbio_jax.models import positions
from softbio_jax.models.config import VisionConfig, vision_config
from softbio_jax.params import flatten
from softbio_jax.runs import build
from softbio_jax.runs.build import Run
from softbio_jax.runs.config import (
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    RunComputeConfig,
    RunConfig,
    TrainConfig,
)

TASKS = ("age", "gender", "emotion")
RANK = 4
# alpha is not the rank, and the rates differ, so that neither can be mistaken for another.
_LORA = {"rank": RANK, "alpha": 6.0, "dropout": 0.125}
_MTLORA = {"name": "mtlora", "lora": _LORA, "task_rank": 3, "task_alpha": 4.5, "task_dropout": 0.25}
METHODS: dict[str, dict[str, Any]] = {
    "lp": {"name": "lp"},
    "ap": {"name": "ap"},
    "ft4": {"name": "ft", "blocks": 4},
    "lora": {"name": "lora", "lora": _LORA},
    "lora_plus": {"name": "lora_plus", "lora": _LORA},
    "dora": {"name": "dora", "lora": _LORA},
    "mtlora": _MTLORA | {"base_input": "shared"},
    "mtlora_task": _MTLORA | {"base_input": "task"},
}
_RATES = {
    "heads": 2e-3,
    "pooling": 1e-3,
    "blocks": 5e-4,
    "adapter_a": 1e-3,
    "adapter_b": 1e-3,
    "magnitude": 1.5e-3,
    "log_var": 5e-3,
}
_OWN_RATES = {
    # Its ratio of 16; at 1e-3 and 16e-3 rounding grows to 1.7e-10 within a hundred steps.
    "lora_plus": {"adapter_a": 2e-4, "adapter_b": 32e-4},
    # Weights that are fine-tuned move more slowly than adapters: at 1e-3 and 5e-4 it grows to 1.3e-10.
    "ap": {"pooling": 2e-4},
    "ft4": {"pooling": 2e-4, "blocks": 1e-4},
}
_CUT = {"layers": 5, "image_size": 48}  # a trunk block beside FT_4's tail, and 10 tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One training run that both sides make.

    Args:
      name: for reports.
      config: of the run; its augmentation is applied beforehand.
      encoder: the encoder that is trained, the variant's own or one cut to fewer blocks.
      run: of the configuration, on that encoder.
    """

    name: str
    config: RunConfig
    encoder: VisionConfig
    run: Run


def of_method(
    method: str,
    *,
    variant: str = "PE-Core-T16-384",
    cut: bool = True,
    uncertainty: bool = True,
    steps: int = 100,
    batch: int = 8,
    image_size: int = 0,
    checkpoint: str = "",
) -> Case:
    """Returns the case of a method by its name in `METHODS`.

    Args:
      method: the name.
      variant: the encoder.
      cut: whether it is cut to 5 blocks and images of 48 pixels.
      uncertainty: whether log-variances balance the losses; else their plain sum is taken.
      steps: length of the schedule.
      batch: examples per step.
      image_size: pixels; 0: the variant's own, or the cut's.
      checkpoint: the encoder's weights; drawn by name by default.
    """
    rates = _RATES | _OWN_RATES.get(method, {})
    config = RunConfig(
        seed=3,
        tasks=TASKS,
        model=ModelConfig(variant=variant, image_size=image_size, pretrained=checkpoint),
        method=METHODS[method],
        data=DataConfig(root="", train=()),
        optimizer=OptimizerConfig(rates=rates, warmup_steps=max(1, steps // 10), weight_decay=0.05),
        train=TrainConfig(steps=max(steps, 2), batch_size=batch, eval_batch_size=batch),
        balancing=BalancingConfig(kind="uncertainty" if uncertainty else "fixed"),
        augment=AugmentConfig(),
        compute=RunComputeConfig(dtype="float32", matmul_precision="highest", unroll=1),
        frozen_dtype="float32",
    )
    name = (
        f"{variant}{' cut' if cut else ''} {method}{'' if uncertainty else ' without uncertainty weighting'}"
    )
    return of_config(config, name=name, cut=cut)


def of_config(config: RunConfig, *, name: str, cut: bool = False) -> Case:
    """Returns the case of a run's configuration, in float32 on this machine."""
    compute = dataclasses.replace(
        config.compute, dtype="float32", matmul_precision="highest", attention="auto"
    )
    config = dataclasses.replace(config, compute=compute, frozen_dtype="float32")
    run = build.build(config)
    encoder = run.model.config
    if cut:
        encoder = dataclasses.replace(encoder, **_CUT)
    elif run.image_size != encoder.image_size:
        # The positions are stored at the size that is trained at, as timm holds them.
        encoder = dataclasses.replace(encoder, image_size=run.image_size)
    if encoder != run.model.config:
        model = run.model.clone(config=encoder)
        shapes = flatten(build.abstract_params(config, model))
        run = dataclasses.replace(run, model=model, shapes=shapes, image_size=encoder.image_size)
    return Case(name=name, config=config, encoder=encoder, run=run)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
    """The state that both sides start from: {path: array} in this package's layout, float32."""

    trained: dict[str, np.ndarray]
    frozen: dict[str, np.ndarray]
    statistics: dict[str, np.ndarray]


def start(case: Case, *, seed: int = 0) -> Start:
    """Returns a start with no leaf at a value that hides a fault, such as a B of zeros.

    The encoder is the checkpoint's, or drawn by name with sharp attention; the rest is drawn by name.
    """
    run, tail = case.run, case.run.model.tail
    if case.config.model.pretrained:
        base = _read(case)
    else:
        drawn = named_state(vision_shapes(case.encoder), seed=seed)
        base = stacking.stack(OFFICIAL.forward(drawn), tail=tail)
    params: dict[str, np.ndarray] = {}
    for path, shape in run.shapes.items():
        if path in base:
            params[path] = base[path]
        elif not path.endswith(("dora_base_norm", "dora_magnitude", "task_probe")):
            params[path] = _drawn(path, shape.shape, seed)
    for path, shape in run.shapes.items():
        parent, _, name = path.rpartition("/")
        if name == "dora_base_norm":
            params[path] = _norms(params[f"{parent}/kernel"])
        elif name == "dora_magnitude":
            noise = named_uniform(path, shape.shape, seed=seed)
            params[path] = (_norms(params[f"{parent}/kernel"]) * (1 + 0.1 * noise)).astype(np.float32)
        elif name == "task_probe":
            noise = named_uniform(path, shape.shape, seed=seed)
            params[path] = (params["pool/probe"] * (1 + 0.1 * noise)).astype(np.float32)
    variables = jax.eval_shape(lambda: build._init(run.model, jax.random.key(0)))
    statistics = {
        path: (0.1 if path.endswith("mean") else 1.0) + 0.05 * named_uniform(path, leaf.shape, seed=seed)
        for path, leaf in flatten(variables.get("batch_stats", {})).items()
    }
    groups = run.groups
    return Start(
        trained={path: leaf for path, leaf in params.items() if groups[path] != FROZEN},
        frozen={path: leaf for path, leaf in params.items() if groups[path] == FROZEN},
        statistics={path: leaf.astype(np.float32) for path, leaf in statistics.items()},
    )


def _read(case: Case) -> dict[str, np.ndarray]:
    """Returns the checkpoint's weights, its positional embedding at the size that is trained at."""
    encoder, tail = case.encoder, case.run.model.tail
    stored = dataclasses.replace(encoder, image_size=vision_config(encoder.name).image_size)
    base = flatten(load_pretrained(case.config.model.pretrained, config=stored, tail=tail))
    name = "encoder/positional_embedding"
    if name in base:
        grid = (encoder.grid, encoder.grid)
        table = positions.resample(
            base[name],
            stored=stored.grid,
            grid=grid,
            class_token=encoder.class_token,
            method=encoder.resample,
        )
        base[name] = np.asarray(table, np.float32)
    return base


def _drawn(path: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    values, name = named_uniform(path, shape, seed=seed), path.rpartition("/")[2]
    if name in ("kernel", "lora_a"):
        return (values / np.sqrt(shape[-2])).astype(np.float32)
    if name == "scale":
        return (1 + 0.1 * values).astype(np.float32)
    return (0.1 * values).astype(np.float32)  # B, biases, log-variances, a new probe


def _norms(kernel: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(kernel.astype(np.float64)).sum(axis=-2))
