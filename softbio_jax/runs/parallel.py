"""The mesh, its shardings, host arrays to global ones, and the start of several processes."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from softbio_jax.errors import UserError
from softbio_jax.ranges import Range, check_fields

# Frozen leaves with fewer elements are replicated, as gathering them does not pay off: norms, biases.
_SHARDED_FROM = 2**16
# A trained leaf's gradient is summed over all devices either way: leaves with fewer elements per
# block, such as adapters, are replicated.
_TRAINED_FROM = 2**20


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """The device mesh: all devices, in groups of `fsdp` that shard large weights."""

    fsdp: Annotated[int, Range(1, 2**16)] = 1  # devices that share one copy of the large weights

    def __post_init__(self) -> None:
        check_fields(self, "mesh")


def make_mesh(*, fsdp: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh with axes data and fsdp.

    Args:
      fsdp: number of devices over which large weights are sharded.
      devices: the devices; None: all devices of all processes.

    Raises:
      UserError: fsdp does not divide the device count.
    """
    count = jax.device_count() if devices is None else len(devices)
    if fsdp < 1 or count % fsdp:
        raise UserError(
            "mesh does not fit the devices",
            where="mesh.fsdp",
            expected=f"a divisor of {count} devices",
            found=str(fsdp),
            fix="choose another fsdp",
        )
    shape, names = (count // fsdp, fsdp), ("data", "fsdp")
    # Auto axes: make_mesh's default, Explicit, requires every operation to be annotated.
    types = (AxisType.Auto,) * 2
    try:
        return jax.make_mesh(shape, names, axis_types=types, devices=devices)
    except NotImplementedError:  # fsdp=8 on a torus of 4x4x4, of which an axis has to be split
        laid_out = mesh_utils.create_device_mesh(shape, devices=devices, allow_split_physical_axes=True)
        return Mesh(laid_out, names, axis_types=types)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of replicated arrays."""
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh, *, axis: int = 0) -> NamedSharding:
    """Returns the sharding of arrays whose given axis is that of examples: over all devices."""
    return NamedSharding(mesh, P(*[None] * axis, ("data", "fsdp")))


def weight_sharding(shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a frozen weight: one axis that fsdp divides, over fsdp.

    Preferably the last but one, which products sum over, so that XLA gathers the weight; if sharded
    by its outputs, XLA would gather the activations of the whole fsdp group. Otherwise the widest.
    The first of three or more axes is never sharded: blocks are scanned over it.
    """
    return _over_fsdp(shape, mesh) if np.prod(shape) >= _SHARDED_FROM else replicated(mesh)


def trained_sharding(shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a trained leaf: as of a frozen weight, but replicated if a block is small.

    It depends only on the shape, so a leaf, its gradient and its moments are on the same devices.
    """
    block = shape[1:] if len(shape) >= 3 else shape
    return _over_fsdp(shape, mesh) if np.prod(block) >= _TRAINED_FROM else replicated(mesh)


def check_batch(batch_size: int, mesh: Mesh, *, microbatches: int = 1, where: str) -> None:
    """Checks that devices and microbatches divide the global batch size, set at `where`.

    Raises:
      UserError: they do not.
    """
    unit = mesh.size * microbatches
    if batch_size <= 0 or batch_size % unit:
        raise UserError(
            "batch does not fit the mesh",
            where=where,
            expected=f"a multiple of {mesh.size} devices x {microbatches} microbatches = {unit}",
            found=str(batch_size),
            fix="change the batch size",
        )


def to_global(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Returns the global batch {name: (B, ...)} of every process' rows (b, ...), sharded over the mesh."""
    sharding = batch_sharding(mesh)
    return {key: jax.make_array_from_process_local_data(sharding, value) for key, value in batch.items()}


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Replicates a tree, the same on every process, over the mesh."""
    return jax.tree.map(lambda leaf: _place(leaf, replicated(mesh)), tree)


def shard_weights(tree: Any, mesh: Mesh) -> Any:
    """Places frozen weights, the same on every process, by `weight_sharding`."""
    return jax.tree.map(lambda leaf: _place(leaf, weight_sharding(np.shape(leaf), mesh)), tree)


def trained_shardings(tree: Any, mesh: Mesh) -> Any:
    """Returns the `trained_sharding` of every array or shape."""
    return jax.tree.map(lambda leaf: trained_sharding(np.shape(leaf), mesh), tree)


def shard_trained(tree: Any, mesh: Mesh) -> Any:
    """Places trained leaves, the same on every process, by `trained_sharding`."""
    return jax.tree.map(_place, tree, trained_shardings(tree, mesh))


def start_distributed(
    *, coordinator: str | None = None, process_id: int | None = None, processes: int | None = None
) -> None:
    """Starts JAX's distributed runtime; TPU pods and SLURM need no arguments.

    Args:
      coordinator: HOST:PORT of process 0, the same on every process.
      process_id: index of this process (0-based).
      processes: number of processes.

    Raises:
      UserError: only some of the three are given, or the other processes are not found.
    """
    given = [coordinator is not None, process_id is not None, processes is not None]
    if any(given) != all(given):
        raise UserError(
            "incomplete description of the processes",
            where="--coordinator, --process_id, --processes",
            expected="all three or none",
            found=f"{sum(given)} of them",
            fix="give the others too",
        )
    if jax.distributed.is_initialized():
        return
    try:
        jax.distributed.initialize(coordinator, processes, process_id)
    except ValueError as error:
        raise UserError(
            "cannot find the other processes",
            where="--multihost",
            expected="a TPU pod, SLURM, or --coordinator, --process_id and --processes",
            found=str(error).splitlines()[0],
            fix="give the three flags",
        ) from error


def _over_fsdp(shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    ways = mesh.shape["fsdp"]
    axes = [i for i in range(len(shape) >= 3, len(shape)) if shape[i] % ways == 0]
    if ways == 1 or not axes:
        return replicated(mesh)
    inputs = len(shape) - 2
    axis = inputs if inputs in axes else max(axes, key=lambda i: shape[i])
    return NamedSharding(mesh, P(*[None] * axis, "fsdp"))


def _place(leaf: Any, sharding: NamedSharding) -> jax.Array:
    # device_put to other processes' devices would first compare the value across them. Each device
    # gets its own copy: the state is donated, and a buffer can be donated only once.
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: np.array(host[index]))
