"""Mesh, shardings, distributed start and the way of host arrays to global ones."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from softbio_jax.errors import UserError

# Frozen leaves below this many elements are not worth gathering: a norm, a bias, small kernels.
_SHARDED_FROM = 2**16
# A trained leaf's gradient has to be summed over all devices either way: one of fewer elements a
# block, as adapters have, is whole on each.
_TRAINED_FROM = 2**20


def make_mesh(*, fsdp: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh with axes data and fsdp.

    Args:
      fsdp: devices over which large weights are sharded; divides the device count.
      devices: which devices; None: all of them, of every process.

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
    # Auto axes: make_mesh's default is Explicit, which wants every operation annotated.
    types = (AxisType.Auto,) * 2
    try:
        return jax.make_mesh(shape, names, axis_types=types, devices=devices)
    except NotImplementedError:  # fsdp=8 on a torus of 4x4x4: an axis of it has to be split
        laid_out = mesh_utils.create_device_mesh(shape, devices=devices, allow_split_physical_axes=True)
        return Mesh(laid_out, names, axis_types=types)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of what every device holds whole."""
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh, *, axis: int = 0) -> NamedSharding:
    """Returns the sharding of what has an axis of examples: that one over all devices.

    Args:
      mesh: the devices.
      axis: which one it is.
    """
    return NamedSharding(mesh, P(*[None] * axis, ("data", "fsdp")))


def weight_sharding(shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a frozen weight: one axis that fsdp divides, over fsdp.

    That is the last but one, which products sum over, so that XLA gathers the weight; sharded by
    its outputs, it would gather the activations of the whole group. Where fsdp does not divide it,
    the widest. The first of three or more axes is left whole: blocks are scanned over it.
    """
    return _over_fsdp(shape, mesh) if np.prod(shape) >= _SHARDED_FROM else replicated(mesh)


def trained_sharding(shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a trained leaf, its gradient and its moments: as that of a frozen
    weight, but whole where a block of it is small, as adapters, heads and norms are.

    It depends on the shape alone, so what the optimizer keeps for a leaf lies where the leaf lies.
    """
    block = shape[1:] if len(shape) >= 3 else shape
    return _over_fsdp(shape, mesh) if np.prod(block) >= _TRAINED_FROM else replicated(mesh)


def check_batch(batch_size: int, mesh: Mesh, *, microbatches: int = 1, where: str) -> None:
    """Checks that every device gets whole rows of every microbatch.

    Args:
      batch_size: B, over all devices.
      mesh: the devices.
      microbatches: parts of a batch that go through the tower one after the other.
      where: the setting that the batch size is from.

    Raises:
      UserError: they do not divide it.
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
    """Returns the global batch of which each process gives its rows.

    Args:
      batch: name -> this process' rows (b, ...).
      mesh: over all of whose devices rows are split.

    Returns:
      name -> (B, ...), B the sum of all b.
    """
    sharding = batch_sharding(mesh)
    return {key: jax.make_array_from_process_local_data(sharding, value) for key, value in batch.items()}


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Puts a tree, the same on every process, on every device of the mesh."""
    return jax.tree.map(lambda leaf: _place(leaf, replicated(mesh)), tree)


def shard_weights(tree: Any, mesh: Mesh) -> Any:
    """Puts frozen weights, the same on every process, on the mesh by `weight_sharding`."""
    return jax.tree.map(lambda leaf: _place(leaf, weight_sharding(np.shape(leaf), mesh)), tree)


def trained_shardings(tree: Any, mesh: Mesh) -> Any:
    """Returns `trained_sharding` of every leaf, arrays or shapes."""
    return jax.tree.map(lambda leaf: trained_sharding(np.shape(leaf), mesh), tree)


def shard_trained(tree: Any, mesh: Mesh) -> Any:
    """Puts trained leaves, the same on every process, on the mesh by `trained_sharding`."""
    return jax.tree.map(_place, tree, trained_shardings(tree, mesh))


def start_distributed(
    *, coordinator: str | None = None, process_id: int | None = None, processes: int | None = None
) -> None:
    """Starts JAX's distributed runtime; on TPU pods and under SLURM it finds its peers itself.

    Args:
      coordinator: HOST:PORT of process 0, the same on every process.
      process_id: the number of this process, from 0.
      processes: how many there are.

    Raises:
      UserError: some of the three are given and some are not.
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
            "cannot tell the other processes",
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
    # device_put to other processes' devices would first compare the value over all of them. Each
    # device gets a copy of its own: the state is donated, and one buffer cannot be given twice.
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: np.array(host[index]))
