"""The chips that a step is compiled for, by the names under which people rent them.

TPUs need not exist: their compiler comes with libtpu (the extra `tpu`). A GPU's compiler needs the GPU;
by its name alone, the CPU's lays out the step, which gives an estimate.
"""

from __future__ import annotations

import importlib.util
import math
import os
import re
import types
from typing import Any, NamedTuple

import jax

from softbio_jax.errors import UserError, nearest
from softbio_jax.runs.chips import CHIPS, Chip, chip_of

GENERATIONS = ("v4", "v5e", "v5p", "v6e", "7x")
_LAYOUT = {"7x": "tpu7x"}  # the compiler's name of a generation where it differs
_CORES = {"7x": 2}  # JAX devices per chip
# On a v4 chip two cores are one JAX device, as on a v5p; by default the compiler treats them as two.
_OPTIONS: dict[str, dict[str, Any]] = {"v4": {"chip_config_name": "megacore"}}
# When libtpu is loaded it looks for TPUs, their hosts and their metadata, and locks the machine for
# one process. Here it only compiles.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_STDERR_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
# Chips -> shape, as slices are rented (cloud.google.com/tpu/docs: v4, v5e, v5p, v6e).
_FLAT = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_TORUS = {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8"}
_RENTED = {"v5litepod": "v5e", "v5e": "v5e", "v6e": "v6e", "v4": "v4", "v5p": "v5p"}
_EXAMPLES = (
    "local, v5e-1, v5e-8, v5litepod-16, v6e-8, v5p-8, v5p:4x4x4, 7x:2x2x1, T4, 2xT4, L4, A100-40GB, H100"
)


class Target(NamedTuple):
    """Devices to compile for.

    Args:
      devices: JAX devices, which need not exist.
      chip: their published memory and speed; None: unknown.
      exact: whether the compiler of these chips compiles; otherwise the CPU's does, for an estimate.
    """

    devices: list[Any]
    chip: Chip | None
    exact: bool = True


def resolve(topology: str) -> str:
    """Returns the name of `devices_of` for a rented one: v5litepod-16 is v5e:4x4, 2xT4 is t4:2.

    A number after v5e, v5litepod and v6e counts chips, after v4 and v5p their cores, as Cloud does.

    Raises:
      UserError: an unknown name.
    """
    text = re.sub(r"\b(gpu|tpu|vm)\b", "", topology.lower()).strip(" -_")  # as in "T4 GPU", "TPU v5e-8"
    generation, _, shape = text.partition(":")
    if text == "local" or (generation in GENERATIONS and shape):
        return text
    if found := re.fullmatch(r"(v\w+)-(\d+)", text):
        generation, count = _RENTED.get(found[1], ""), int(found[2])
        torus = generation in ("v4", "v5p")
        shapes = {2 * chips: shape for chips, shape in _TORUS.items()} if torus else _FLAT
        if generation and count in shapes:
            return f"{generation}:{shapes[count]}"
        if generation:
            raise UserError(
                "no slice of this size",
                where=f"--topology={topology}",
                expected=f"{found[1]}-N with N of {', '.join(map(str, shapes))}",
                found=str(count),
                fix=f"choose one, or give a shape: {generation}:{shapes[8]}",
            )
    count, chip = _gpus(text)
    if chip is not None:
        return f"{chip}:{count}"
    raise UserError(
        "unknown topology",
        where="--topology",
        expected=f"a name such as {_EXAMPLES}",
        found=repr(topology),
        fix=nearest(text, _names(), otherwise="correct it"),
    )


def described(topology: str) -> list[Any]:
    """Returns what is known of the devices of a topology without a compiler: platform and device_kind.

    Args:
      topology: a name that `resolve` returned.
    """
    name, _, shape = topology.partition(":")
    if name == "local":
        return jax.devices()
    if name not in GENERATIONS:
        return [types.SimpleNamespace(platform="gpu", device_kind=CHIPS[name].name)] * int(shape)
    if not re.fullmatch(r"\d+(x\d+){1,2}", shape):
        raise _no_slice(topology, "not a shape")
    count = math.prod(map(int, shape.split("x"))) * _CORES.get(name, 1)
    return [types.SimpleNamespace(platform="tpu", device_kind=CHIPS[name].name)] * count


def devices_of(topology: str) -> Target:
    """Returns devices to compile for and their published memory and speed.

    Args:
      topology: "local" for this machine's devices, or any name that `resolve` knows. GPUs are stood for by
        CPU devices; those of this machine are compiled for as "local".

    Raises:
      UserError: unknown topology, or no TPU compiler on this machine.
    """
    resolved = resolve(topology)
    name, _, shape = resolved.partition(":")
    if name == "local":
        return Target(jax.devices(), chip_of(jax.devices()[0].device_kind))
    if name not in GENERATIONS:
        return _gpu_target(name, int(shape))
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "no TPU compiler",
            where=f"--topology={topology}",
            expected="libtpu",
            found="not installed",
            fix="pip install 'softbio-jax[tpu]'",
        )
    from jax.experimental import topologies

    for variable, value in _ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    options = dict(_OPTIONS.get(name, {}))
    if shape == "1x1":  # the compiler takes a host to have four chips
        options["chips_per_host_bounds"] = [1, 1, 1]
    try:
        description = topologies.get_topology_desc(
            platform="tpu", topology_name=f"{_LAYOUT.get(name, name)}:{shape}", **options
        )
    except Exception as error:  # a RuntimeError or an error of XLA, depending on the cause
        raise _no_slice(topology, str(error).strip().splitlines()[0][:200]) from error
    return Target(list(description.devices), CHIPS[name])


def _gpu_target(name: str, count: int) -> Target:
    here = jax.devices("cpu")
    if len(here) < count:
        raise UserError(
            "too few CPU devices to lay out a step for these GPUs",
            where=f"--topology={name}:{count}",
            expected=f"{count}",
            found=str(len(here)),
            fix=f"export JAX_NUM_CPU_DEVICES={count}",
        )
    return Target(here[:count], CHIPS[name], exact=False)


def _names() -> list[str]:
    """Returns names that `resolve` knows, to propose one."""
    gpus = [chip for chip in CHIPS if chip not in GENERATIONS]
    counts = {name: _FLAT for name in ("v5e", "v5litepod", "v6e")}
    slices = [f"{name}-{count}" for name in _RENTED for count in counts.get(name, {2 * n: 0 for n in _TORUS})]
    return ["local", *slices, *gpus, "a100-40gb", "a100-80gb"]


def _gpus(text: str) -> tuple[int, str | None]:
    """Returns the number and the chip of a name such as 2xT4, A100-SXM4-40GB, rtx4090:4 or T4 x2."""
    # The x of RTX is no number's.
    found = re.fullmatch(r"(?:(\d+) ?x ?)?([a-z0-9][a-z0-9 _-]*?)(?:(?::|(?<!rt)x)(\d+))?", text)
    if not found or (found[1] and found[3]):
        return 0, None
    name = re.sub(r"nvidia|geforce|tesla|pcie|sxm\d?|[ _-]", "", found[2])
    name = re.sub(r"(?<=\d)gb?$", "", name)
    known: dict[str, str] = {}
    for chip in CHIPS.keys() - set(GENERATIONS):
        plain = chip.replace("-", "")
        known |= {
            plain: chip,
            f"{plain}{CHIPS[chip].memory / 2**30:.0f}": chip,
            plain.removeprefix("rtx"): chip,
        }
    count = int(found[1] or found[3] or 1)
    return count, known.get(name) if count else None


def _no_slice(topology: str, found: str) -> UserError:
    name = topology.partition(":")[0]
    return UserError(
        "no slice of this shape",
        where=f"--topology={topology}",
        expected=f"a shape of {name} slices",
        found=found,
        fix="correct the shape",
    )
