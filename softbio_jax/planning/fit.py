"""Will a run fit, and how fast could it be at best: the real train step, compiled for any chips."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import NamedSharding

from softbio_jax import parallel
from softbio_jax.errors import UserError
from softbio_jax.models.flops import matmul_flops
from softbio_jax.planning.hlo import memory_bytes
from softbio_jax.runs import build
from softbio_jax.runs.chips import Chip
from softbio_jax.runs.config import DataConfig, RunConfig
from softbio_jax.runs.data import open_all
from softbio_jax.runs.session import trace_train_step

_UNITS = {"B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


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
      traffic: bytes a chip reads from and writes to its memory in a step, 0 where not compiled.
      compute_seconds: of a step at the chips' published peak; 0 where unknown.
      memory_seconds: of a step at their published bandwidth; 0 where unknown.
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
    traffic: int = 0
    compute_seconds: float = 0
    memory_seconds: float = 0

    @property
    def used(self) -> float:
        """Bytes a chip: what it holds, or would have to; 0 where the compiler did not say."""
        found = re.search(r"(?:Used |temporaries \()([\d.]+)([BKMGT])", self.needed)
        if found:
            return float(found[1]) * _UNITS[found[2]]
        return self.arguments + self.temporaries

    @property
    def images_per_second(self) -> float | None:
        """Returns the most that the published figures allow: the smaller of both bounds."""
        seconds = max(self.compute_seconds, self.memory_seconds)
        return self.batch_size / seconds if seconds else None

    @property
    def bound_by(self) -> str:
        """Which of both it is: compute or memory."""
        return "memory" if self.memory_seconds > self.compute_seconds else "compute"


def fit(config: RunConfig, devices: Sequence[Any], chip: Chip | None) -> Fit:
    """Compiles a run's train step for devices that need not be there.

    Args:
      config: the run; its batch size, mesh and remat policy are what is tried.
      devices: what to compile for.
      chip: their published figures.

    Raises:
      UserError: the batch does not fit the mesh, or a name in the config does not exist.
    """
    traced = _trace(config, devices)
    flops = matmul_flops(traced.jaxpr)
    planned = Fit(
        chips=len(devices),
        batch_size=config.train.batch_size,
        remat=config.compute.remat,
        fits=False,
        limit=chip.memory if chip else 0,
        flops=flops,
        compute_seconds=flops / (len(devices) * chip.flops) if chip else 0,
    )
    try:
        compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return dataclasses.replace(planned, needed=_needed(str(error)))
    memory, traffic = compiled.memory_analysis(), memory_bytes(compiled.as_text())
    return judged(
        dataclasses.replace(
            planned,
            fits=True,
            arguments=memory.argument_size_in_bytes,
            temporaries=memory.temp_size_in_bytes,
            traffic=traffic,
            memory_seconds=traffic / chip.bandwidth if chip else 0,
        )
    )


def judged(found: Fit) -> Fit:
    """Returns a compiled step with the verdict that its size gives: not all compilers refuse."""
    if not found.limit or found.used <= found.limit:
        return found
    used, limit = found.used / 2**30, found.limit / 2**30
    return dataclasses.replace(found, fits=False, needed=f"Used {used:.2f}G of {limit:.2f}G hbm")


def _trace(config: RunConfig, devices: Sequence[Any]) -> jax.stages.Traced:
    """Returns the train step, laid out as a run would lay it out; no weight is made."""
    if config.frozen_dtype == "auto":
        config = dataclasses.replace(
            config, frozen_dtype="float32" if devices[0].platform == "cpu" else "bfloat16"
        )
    run = build.parts(config)
    mesh = parallel.make_mesh(fsdp=config.mesh.fsdp, devices=devices)
    parallel.check_batch(
        config.train.batch_size, mesh, microbatches=config.train.microbatches, where="train.batch_size"
    )
    state, frozen = build.abstract_start(run)
    frozen = jax.eval_shape(lambda tree: build.narrow(tree, config), frozen)
    shardings = jax.tree.map(lambda x: parallel.weight_sharding(x.shape, mesh), frozen)
    return trace_train_step(
        run, mesh, _on(state, parallel.trained_shardings(state, mesh)), _on(frozen, shardings)
    )


def _on(tree: Any, shardings: Any) -> Any:
    def laid_out(leaf: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(laid_out, tree, shardings)


def _needed(message: str) -> str:
    """Returns the compiler's own words on how much is missing."""
    for words in (r"Used [\d.]+\w of [\d.]+\w hbm", r"temporaries \([\d.]+\w\) exceeds .*?\)"):
        if found := re.search(words, message):
            return found.group(0)
    return message.strip().splitlines()[0][:120]


# FairFace 69,395, LAGENDA 67,352, CelebA-HQ 22,400, RAF-DB 9,215: what the thesis trains on.
THESIS_IMAGES = 168_362


def epoch_images(config: DataConfig) -> tuple[int, str]:
    """Returns the training rows of a run and where the number is from.

    Args:
      config: its sets; where they are not prepared on this machine, the thesis' number is taken.
    """
    try:
        return sum(map(len, open_all(config).train)), "the prepared training rows"
    except UserError:
        return THESIS_IMAGES, "the thesis' training rows"
