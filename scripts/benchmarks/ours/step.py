"""This package's side: the train step and the forward pass as its runs compile them."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any

import jax
import numpy as np

from benchmarks.comparison.workload import Workload, example_batch
from softbio_jax.data.augment import OFF
from softbio_jax.models.flops import matmul_flops, vision_flops
from softbio_jax.models.multitask import HeadConfig
from softbio_jax.params import flatten
from softbio_jax.planning.hlo import memory_bytes
from softbio_jax.runs import build, parallel
from softbio_jax.runs.chips import Chip, chip_of
from softbio_jax.runs.config import (
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    RunComputeConfig,
    RunConfig,
    TrainConfig,
)
from softbio_jax.runs.session import Session

_GROUPS = ("heads", "log_var", "pooling", "blocks", "adapter_a", "adapter_b", "magnitude")
_FORWARD = ("image", "labels", "example")  # what a forward pass reads
_RATE = 1e-4
_STEPS = 1_000_000  # the length of the schedule, more than is ever run


def run_config(workload: Workload) -> RunConfig:
    """Returns the configuration of a run that takes the workload's steps."""
    return RunConfig(
        seed=0,
        tasks=workload.tasks,
        model=ModelConfig(
            variant=workload.variant,
            image_size=workload.image_size,
            head=HeadConfig(batch_norm=workload.batch_norm),
        ),
        method=_method(workload),
        data=DataConfig(root="", train=()),
        optimizer=OptimizerConfig(rates=dict.fromkeys(_GROUPS, _RATE), schedule="constant", decay_all=True),
        train=TrainConfig(steps=_STEPS, batch_size=workload.batch, eval_batch_size=workload.batch),
        augment=OFF,
        compute=RunComputeConfig(dtype=workload.dtype, remat=workload.remat, attention=workload.attention),
        frozen_dtype=workload.dtype,
    )


def parts(workload: Workload) -> build.Run:
    """Returns the run's parts, with the number of blocks that the workload asks for."""
    run = build.build(run_config(workload))
    if not workload.layers:
        return run
    tower = dataclasses.replace(run.model.config, layers=workload.layers)
    return dataclasses.replace(run, model=run.model.clone(config=tower))


def prepare(values: Mapping[str, Any], form: str) -> tuple[Callable[[], None], dict[str, Any]]:
    """Compiles the workload and runs it once.

    Args:
      values: the `Workload` as JSON.
      form: this side has one, "jit".

    Returns:
      A function that runs one repetition to its end, and what is known of it: the number of
      trained parameters, the matrix operations (of a pass, the plain encoder's), and the device's
      peak of them where that is known.
    """
    if form != "jit":
        raise ValueError(f"no form {form!r} on this side")
    workload = Workload.from_json(values)
    run = parts(workload)
    session = Session(run)
    trained = sum(leaf.size for leaf in flatten(session.state.trainable).values())
    facts: dict[str, Any] = {"trainable": int(trained), "attention": run.attention.name}
    batch = example_batch(workload)
    chip = chip_of(jax.devices()[0].device_kind)
    if workload.work == "train":
        flops = matmul_flops(session.compile())
        facts |= _predicted(session._compiled, flops, chip, workload.steps)
        del batch["example"]
        repetition = _train(session, batch, workload.steps)
    else:
        flops = workload.batch * vision_flops(run.model.config, projected=False).total
        batch = {name: v for name, v in batch.items() if name.split("/")[0] in _FORWARD}
        repetition = _forward(session, batch, workload.steps)
    facts["flops"] = flops * workload.steps
    if chip:
        facts["peak_flops"] = chip.flops
    repetition()
    return repetition, facts


def _predicted(compiled: Any, flops: int, chip: Chip | None, steps: int) -> dict[str, float]:
    """Returns what the planner predicts of a compiled step: bytes, and the least seconds of a repetition."""
    memory = compiled.memory_analysis()
    found: dict[str, float] = {"predicted_bytes": memory.argument_size_in_bytes + memory.temp_size_in_bytes}
    if chip:
        traffic = memory_bytes(compiled.as_text())
        found["predicted_seconds"] = steps * max(flops / chip.flops, traffic / chip.bandwidth)
    return found


def device_bytes() -> int:
    """Returns the most that this process has used of the device's memory; 0 where that is not counted."""
    return int((jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0))


def _train(session: Session, batch: dict[str, np.ndarray], steps: int) -> Callable[[], None]:
    def repetition() -> None:
        for _ in range(steps):
            metrics = session.train(batch)
        jax.block_until_ready((metrics, session.state))

    return repetition


def _forward(session: Session, batch: dict[str, np.ndarray], steps: int) -> Callable[[], None]:
    def repetition() -> None:
        for _ in range(steps):
            out = session.forward(parallel.to_global(batch, session.mesh))
        jax.block_until_ready(out)

    return repetition


def _method(workload: Workload) -> dict[str, Any]:
    lora = {"rank": workload.rank, "alpha": float(workload.rank)}
    match workload.method:
        case "merged":
            return {"name": "lp"}  # merged adapters leave the plain encoder
        case "ft4":
            return {"name": "ft", "blocks": 4}
        case name:
            return {"name": name, "lora": lora}


def describe() -> dict[str, Any]:
    """Returns the device and the versions of what runs."""
    versions = {name: metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax")}
    return {
        "platform": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "versions": versions,
        "library": f"XLA: {os.environ.get('XLA_FLAGS') or 'its default flags'}",
    }
