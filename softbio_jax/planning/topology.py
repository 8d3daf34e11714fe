"""Devices to compile for that need not be there.

The TPU compiler comes with libtpu (the extra `tpu`) and needs no TPU.
"""

import importlib.util
import os
from typing import Any

import jax

from softbio_jax.errors import UserError
from softbio_jax.runs.chips import CHIPS, Chip, chip_of

GENERATIONS = ("v4", "v5e", "v5p", "v6e", "7x")
_LAYOUT = {"7x": "tpu7x"}  # what the compiler calls a generation, where people call it otherwise
# On a v4 chip two cores are one JAX device, as on a v5p; the compiler would take them apart.
_OPTIONS = {"v4": {"chip_config_name": "megacore"}}
# For libtpu, which looks for TPUs, their hosts and their metadata when it is loaded, and would have
# the machine for itself: here it only compiles.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_STDERR_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


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
            found="it is not installed",
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
    except Exception as error:  # a RuntimeError or XLA's own, by what is wrong
        raise UserError(
            "no slice of this shape",
            where=f"--topology={topology}",
            expected=f"a shape that {generation} comes in",
            found=str(error).strip().splitlines()[0][:200],
            fix="correct the shape",
        ) from error
    return list(description.devices), CHIPS[generation]
