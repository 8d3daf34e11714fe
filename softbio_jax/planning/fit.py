"""Will a run fit, and how fast could it be at best: the real train step, compiled for any chips.

The TPU compiler comes with libtpu (the extra `tpu`) and needs no TPU.
"""

import dataclasses
import os
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import NamedSharding

from softbio_jax import parallel
from softbio_jax.errors import UserError
from softbio_jax.train import build
from softbio_jax.train.chips import CHIPS, Chip, chip_of
from softbio_jax.train.config import RunConfig
from softbio_jax.train.session import trace_train_step
from softbio_jax.train.traced import matmul_flops

_LAYOUT = {"7x": "tpu7x"}  # what the compiler calls a generation, where people call it otherwise


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fit:
    """One layout, batch and remat policy, after compiling.

    Args:
      chips: JAX devices.
      batch_size: examples a step over all of them.
      remat: the policy.
      fits: whether the compiler found room.
      arguments, temporaries: bytes a chip, 0 where it did not.
      needed: what the compiler said it needs where it did not fit.
      limit: bytes a chip has, 0 where unknown.
      flops: matrix operations of a step, over all chips.
      images_per_second: batch / time at the chips' published peak; None where unknown.
    """

    chips: int
    batch_size: int
    remat: str
    fits: bool
    arguments: int = 0
    temporaries: int = 0
    needed: str = ""
    limit: float = 0
    flops: int
    images_per_second: float | None


def devices_of(topology: str) -> tuple[list[Any], Chip | None]:
    """Returns devices to compile for and their published figures.

    Args:
      topology: such as v5e:2x4 or v5p:4x4x4; "local" for this machine's own.

    Raises:
      UserError: no such topology, or no TPU compiler on this machine.
    """
    if topology == "local":
        return jax.devices(), chip_of(jax.devices()[0].device_kind)
    generation, _, shape = topology.partition(":")
    if generation not in CHIPS or not shape:
        raise UserError("unknown topology", where="--topology",
                        expected="local, or v4, v5e, v5p, v6e, 7x with a shape: v5e:4x4",
                        found=repr(topology), fix="correct it")  # fmt: skip
    from jax.experimental import topologies

    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # there is no metadata server off the cloud
    os.environ.setdefault("TPU_STDERR_LOG_LEVEL", "3")  # nor hosts, which libtpu remarks upon
    name = f"{_LAYOUT.get(generation, generation)}:{shape}"
    try:
        description = topologies.get_topology_desc(platform="tpu", topology_name=name)
    except Exception as error:  # a RuntimeError or XLA's own, by what is missing
        raise UserError(
            "cannot compile for this topology", where=f"--topology={topology}",
            expected="libtpu and a shape that exists",
            found=str(error).strip().splitlines()[0][:200],
            fix="pip install 'softbio-jax[tpu]', or correct the shape",
        ) from error  # fmt: skip
    return list(description.devices), CHIPS[generation]


def fit(config: RunConfig, devices: Sequence[Any], chip: Chip | None) -> Fit:
    """Compiles a run's train step for devices that need not be there.

    Args:
      config: the run; its batch size, mesh and remat policy are what is tried.
      devices: what to compile for.
      chip: their published figures.

    Raises:
      UserError: the batch does not fit the mesh, or a name in the config does not exist.
    """
    if config.frozen_dtype == "auto":
        config = dataclasses.replace(
            config, frozen_dtype="float32" if devices[0].platform == "cpu" else "bfloat16"
        )
    run = build.parts(config)
    mesh = parallel.make_mesh(fsdp=config.mesh.fsdp, devices=devices)
    parallel.check_batch(config.train.batch_size, mesh, microbatches=config.train.microbatches,
                         where="train.batch_size")  # fmt: skip
    state, frozen = build.abstract_start(run)
    frozen = jax.eval_shape(lambda tree: build.narrow(tree, config), frozen)
    whole = parallel.replicated(mesh)
    traced = trace_train_step(
        run,
        mesh,
        jax.tree.map(lambda x: _on(x, whole), state),
        jax.tree.map(lambda x: _on(x, parallel.weight_sharding(x.shape, mesh)), frozen),
    )
    flops = matmul_flops(traced.jaxpr)
    at_best = (
        config.train.batch_size * len(devices) * chip.flops / flops if chip and flops else None
    )
    planned = Fit(
        chips=len(devices),
        batch_size=config.train.batch_size,
        remat=config.compute.remat,
        fits=False,
        limit=chip.memory if chip else 0,
        flops=flops,
        images_per_second=at_best,
    )
    try:
        memory = traced.lower().compile().memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return dataclasses.replace(planned, needed=_needed(str(error)))
    return dataclasses.replace(
        planned,
        fits=True,
        arguments=memory.argument_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
    )


def largest(config: RunConfig, devices: Sequence[Any], chip: Chip | None) -> tuple[Fit, Fit]:
    """Finds the largest batch that fits: returns it and the next one, which does not.

    Both are compiled. Batches are whole rows of every microbatch on every device.
    """
    unit = len(devices) * config.train.microbatches

    def try_units(count: int) -> Fit:
        train = dataclasses.replace(config.train, batch_size=count * unit)
        return fit(dataclasses.replace(config, train=train), devices, chip)

    fits, count = None, 1
    while (tried := try_units(count)).fits:
        fits, count = tried, 2 * count
    if fits is None:
        raise UserError(
            "no batch fits", where=f"remat {config.compute.remat}",
            expected=f"room for {unit} examples on {len(devices)} chips", found=tried.needed,
            fix="take a stronger remat policy, more microbatches, mesh.fsdp, or larger chips",
        )  # fmt: skip
    low, high, next_one = count // 2, count, tried
    while high - low > 1:
        middle = (low + high) // 2
        if (tried := try_units(middle)).fits:
            low, fits = middle, tried
        else:
            high, next_one = middle, tried
    return fits, next_one


def _on(leaf: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _needed(message: str) -> str:
    """Returns the compiler's own words on how much is missing."""
    found = re.search(r"Used [\d.]+\w of [\d.]+\w hbm", message)
    return found.group(0) if found else message.strip().splitlines()[0][:120]
