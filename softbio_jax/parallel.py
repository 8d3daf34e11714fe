"""Mesh, shardings, distributed start and the way of a host batch to global arrays."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from softbio_jax.errors import UserError


def make_mesh(*, fsdp: int = 1) -> Mesh:
    """Returns a mesh of all devices with axes data and fsdp.

    Args:
      fsdp: devices over which frozen weights may be sharded; divides the device count.

    Raises:
      UserError: fsdp does not divide the device count.
    """
    devices = jax.device_count()
    if devices % fsdp:
        raise UserError("mesh does not fit the devices", where="fsdp",
                        expected=f"a divisor of {devices} devices", found=str(fsdp),
                        fix="choose another fsdp")  # fmt: skip
    # Auto axes: make_mesh's default is Explicit, which wants every operation annotated.
    return jax.make_mesh((devices // fsdp, fsdp), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of what every device holds whole."""
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: its first axis over all devices."""
    return NamedSharding(mesh, P(("data", "fsdp")))


def check_batch(batch_size: int, mesh: Mesh, *, microbatches: int = 1, where: str) -> None:
    """Raises UserError unless every device gets whole rows of every microbatch."""
    unit = mesh.size * microbatches
    if batch_size % unit:
        raise UserError(
            "batch does not fit the mesh", where=where,
            expected=f"a multiple of {mesh.size} devices x {microbatches} microbatches = {unit}",
            found=str(batch_size), fix="change the batch size",
        )  # fmt: skip


def to_global(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Returns the global batch of which each process gives its rows."""
    sharding = batch_sharding(mesh)
    return {
        key: jax.make_array_from_process_local_data(sharding, value)
        for key, value in batch.items()
    }


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Puts a host tree on every device of the mesh."""
    return jax.device_put(tree, replicated(mesh))


def start_distributed() -> None:
    """Starts JAX's distributed runtime; on TPU pods and under SLURM it finds its peers itself."""
    if not jax.distributed.is_initialized():
        jax.distributed.initialize()
