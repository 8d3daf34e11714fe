"""Devices to compile for; TPUs need not exist: their compiler comes with libtpu (the extra `tpu`)."""

import importlib.util
import os
from typing import Any

import jax

from softbio_jax.errors import UserError
from softbio_jax.runs.chips import CHIPS, Chip, chip_of

GENERATIONS = ("v4", "v5e", "v5p", "v6e", "7x")
_LAYOUT = {"7x": "tpu7x"}  # the compiler's name of a generation where it differs
# On a v4 chip two cores are one JAX device, as on a v5p; by default the compiler treats them as two.
_OPTIONS = {"v4": {"chip_config_name": "megacore"}}
# When libtpu is loaded it looks for TPUs, their hosts and their metadata, and locks the machine for
# one process. Here it only compiles.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_STDERR_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def devices_of(topology: str) -> tuple[list[Any], Chip | None]:
    """Returns devices to compile for and their published memory and speed.

    A topology is a generation and a shape such as v5e:2x4, or "local" for this machine's devices.

    Raises:
      UserError: unknown topology, or no TPU compiler on this machine.
    """
    if topology == "local":
        return jax.devices(), chip_of(jax.devices()[0].device_kind)
    generation, _, shape = topology.partition(":")
    if generation not in GENERATIONS or not shape:
        raise UserError(
            "unknown topology",
            where="--topology",
            expected=f"local, or {', '.join(GENERATIONS)} with a shape: v5e:4x4",
            found=repr(topology),
            fix="correct it",
        )
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
    name = f"{_LAYOUT.get(generation, generation)}:{shape}"
    try:
        description = topologies.get_topology_desc(
            platform="tpu", topology_name=name, **_OPTIONS.get(generation, {})
        )
    except Exception as error:  # a RuntimeError or an error of XLA, depending on the cause
        raise UserError(
            "no slice of this shape",
            where=f"--topology={topology}",
            expected=f"a shape of {generation} slices",
            found=str(error).strip().splitlines()[0][:200],
            fix="correct the shape",
        ) from error
    return list(description.devices), CHIPS[generation]
