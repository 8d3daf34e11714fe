"""Memory and speed bounds of a run: its real train step, compiled for any devices."""

import dataclasses
import re
import types
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
from jax.sharding import NamedSharding

from softbio_jax.errors import UserError
from softbio_jax.models.flops import matmul_flops
from softbio_jax.models.forward import per_layer
from softbio_jax.planning.estimate import part_seconds, step_seconds
from softbio_jax.planning.parts import NO_COSTS, costs
from softbio_jax.runs import build, parallel
from softbio_jax.runs import config as config_lib
from softbio_jax.runs.chips import Chip
from softbio_jax.runs.config import DataConfig, RunConfig
from softbio_jax.runs.data import open_all
from softbio_jax.runs.session import CompiledStep, is_taught_live, trace_train_step

if TYPE_CHECKING:
    from softbio_jax.runs.teacher import Teacher

# Training rows of FairFace, LAGENDA, CelebA-HQ and RAF-DB.
PUBLIC_ROWS = 69_395 + 67_352 + 22_400 + 9_215
_UNITS = {"B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fit:
    """A compiled train step.

    Args:
      chips: number of JAX devices.
      arguments, temporaries: bytes per chip; 0 if the step does not fit.
      needed: the compiler's statement of what it needs if the step does not fit.
      limit: memory of a chip in bytes; 0: unknown.
      estimated: whether the CPU's compiler laid out the step in place of the chips' own.
      flops: matrix operations per step, over all chips.
      traffic: bytes per step between a chip and its memory; 0 if not compiled.
      sent: bytes per step that a chip sends to others.
      compute_seconds, memory_seconds, link_seconds: time of a step at the chips' published peak, bandwidth
        and links; 0: unknown.
      estimated_seconds: an estimate of the time of a step, see `estimate`; 0: none.
      parts: see `parts.Costs`, with the estimated seconds of each.
      lines: see `parts.Costs`.
      step: the executable, which `train_and_evaluate` takes; None where it was not kept.
    """

    chips: int
    batch_size: int
    remat: str
    fits: bool
    arguments: int = 0
    temporaries: int = 0
    needed: str = ""
    limit: float = 0
    estimated: bool = False
    flops: int
    traffic: int = 0
    compute_seconds: float = 0
    sent: int = 0
    memory_seconds: float = 0
    link_seconds: float = 0
    estimated_seconds: float = 0
    parts: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict, repr=False)
    lines: list[dict[str, Any]] = dataclasses.field(default_factory=list, repr=False)
    step: CompiledStep | None = dataclasses.field(default=None, repr=False, compare=False)

    @property
    def used(self) -> float:
        """Bytes per chip that the step needs; 0 if the compiler did not report them."""
        found = re.search(r"(?:Used |temporaries \()([\d.]+)([BKMGT])", self.needed)
        if found:
            return float(found[1]) * _UNITS[found[2]]
        return self.arguments + self.temporaries

    @property
    def images_per_second(self) -> float | None:
        """An upper bound: the smallest of those by compute, memory and communication."""
        seconds = max(self._bounds.values())
        return self.batch_size / seconds if seconds else None

    @property
    def bound_by(self) -> str:
        """Which of them it is: compute, memory or links."""
        return max(self._bounds, key=self._bounds.__getitem__)

    @property
    def _bounds(self) -> dict[str, float]:
        return {"compute": self.compute_seconds, "memory": self.memory_seconds, "links": self.link_seconds}


def fit(
    config: RunConfig,
    devices: Sequence[Any],
    chip: Chip | None,
    exact: bool = True,
    *,
    teacher: "Teacher | None" = None,
    keep: bool = False,
    then: Callable[[CompiledStep, jax.stages.Traced], None] | None = None,
) -> Fit:
    """Compiles a run's train step for devices that need not exist, with their published memory and speed.

    Args:
      config: the run.
      devices: to compile for.
      chip: the chips that they are.
      exact: whether the devices are such chips; otherwise they are CPU devices that stand for them, and
        intermediate values are as large as on a CPU.
      teacher: of the configuration, see `build.build`; its forward pass is part of the step.
      keep: whether the result has the executable, which occupies the devices.
      then: called with a step that fits and what was traced, such as `stored.save`.

    Raises:
      UserError: the batch does not fit the mesh, or the config has an unknown name.
    """
    known = devices
    if not exact and chip is not None:
        known = [types.SimpleNamespace(platform="gpu", device_kind=chip.name)]
    config = config_lib.resolve_types(config, known)
    traced = traced_step(config, devices, teacher)
    flops = matmul_flops(traced.jaxpr)
    planned = Fit(
        chips=len(devices),
        batch_size=config.train.batch_size,
        remat=config.compute.remat,
        fits=False,
        limit=chip.memory if chip else 0,
        estimated=not exact,
        flops=flops,
        compute_seconds=flops / (len(devices) * chip.flops) if chip else 0,
    )
    try:
        compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return dataclasses.replace(planned, needed=_needed(str(error)))
    memory = compiled.memory_analysis()
    program = compiled.as_text() if exact else ""  # of a CPU's program it says nothing
    found = costs(program, traced.jaxpr) if program else NO_COSTS
    step = CompiledStep(config=config, devices=tuple(devices), jaxpr=traced.jaxpr, call=compiled)
    fitted = apply_limit(
        dataclasses.replace(
            planned,
            fits=True,
            arguments=memory.argument_size_in_bytes,
            temporaries=memory.temp_size_in_bytes,
            traffic=found.traffic,
            sent=found.sent,
            memory_seconds=found.traffic / chip.bandwidth if chip else 0,
            link_seconds=found.sent / chip.link if chip and chip.link else 0,
            estimated_seconds=step_seconds(found.parts, found.sent, chip, len(devices)) if chip else 0,
            parts={name: part | _estimate(part, chip, len(devices)) for name, part in found.parts.items()},
            lines=found.lines,
            step=step if keep else None,
        )
    )
    if then is not None and fitted.fits:
        then(step, traced)
    return fitted


def _estimate(part: Mapping[str, float], chip: Chip | None, chips: int) -> dict[str, float]:
    return {"seconds": part_seconds(part, chip, chips) if chip else 0}


def changed(config: RunConfig, *, batch_size: int = 0, remat: str = "", microbatches: int = 0) -> RunConfig:
    """Returns config with another batch size, remat policy or number of microbatches; 0 and "" keep it."""
    train = dataclasses.replace(
        config.train,
        batch_size=batch_size or config.train.batch_size,
        microbatches=microbatches or config.train.microbatches,
    )
    compute = dataclasses.replace(config.compute, remat=remat or config.compute.remat)
    return dataclasses.replace(config, train=train, compute=compute)


def apply_limit(found: Fit) -> Fit:
    """Marks a compiled step that needs more than its limit: GPU compilers do not refuse it."""
    if not found.limit or found.used <= found.limit:
        return found
    used, limit = found.used / 2**30, found.limit / 2**30
    return dataclasses.replace(found, fits=False, needed=f"Used {used:.2f}G of {limit:.2f}G hbm")


def epoch_images(config: DataConfig) -> tuple[int, str]:
    """Returns the number of training rows of a run and its source.

    Where the run's data sets are not prepared on this machine it is that of four public ones.
    """
    try:
        return sum(map(len, open_all(config).train)), "the prepared training rows"
    except UserError:
        return PUBLIC_ROWS, "FairFace, LAGENDA, CelebA-HQ and RAF-DB"


def traced_step(
    config: RunConfig, devices: Sequence[Any], teacher: "Teacher | None" = None
) -> jax.stages.Traced:
    """Returns the train step with a run's shardings, traced from shapes only."""
    run = build.build(config, devices=devices, teacher=teacher)
    mesh = parallel.make_mesh(fsdp=config.mesh.fsdp, devices=devices)
    parallel.check_batch(
        config.train.batch_size, mesh, microbatches=config.train.microbatches, where="train.batch_size"
    )
    state, frozen = build.abstract_start(run)
    frozen = per_layer(run.model, jax.eval_shape(lambda tree: build.narrow(tree, config), frozen))
    if run.teacher is not None and is_taught_live(run):
        variables = run.teacher.narrowed(config_lib.frozen_dtype(config, devices[0].platform))
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), variables)
        frozen = {"own": frozen, "teacher": per_layer(run.teacher.model, shapes)}
    shardings = jax.tree.map(lambda x: parallel.weight_sharding(x.shape, mesh), frozen)
    return trace_train_step(
        run, mesh, _sharded(state, parallel.trained_shardings(state, mesh)), _sharded(frozen, shardings)
    )


def _sharded(tree: Any, shardings: Any) -> Any:
    def sharded(leaf: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(sharded, tree, shardings)


def _needed(message: str) -> str:
    """Returns the part of the compiler's error that states the memory."""
    for words in (r"Used [\d.]+\w of [\d.]+\w hbm", r"temporaries \([\d.]+\w\) exceeds .*?\)"):
        if found := re.search(words, message):
            return found.group(0)
    return message.strip().splitlines()[0][:120]
