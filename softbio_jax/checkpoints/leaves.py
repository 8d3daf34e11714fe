"""Digests of a state's leaves, cheap enough to be taken at every save.

For damage, not against forgery. Two kinds, told by their prefix:

`columns`, for arrays that a CPU holds: their 8-byte words lie, in row-major order, in rows of 1021;
over every 128 rows each column is summed mod 2^64 (checksums as of Huang and Abraham 1984), and
of the sums the SHA-256 is taken. Any damage within 8 KB is seen for certain; 1021 is prime, so
blocks that change places do not keep their columns. The array is read once, where it lies.

`mix`, for arrays on accelerators or spread over processes, taken by the devices themselves: two
sums mod 2^32 over the elements x_i, i counted in row-major order,

    sum_i m_i  and  sum_i m_i (2 i + 1)  with  m_i = mix(bits(x_i) xor i c),

which depend on no sharding and copy nothing to the host. Terms are one to one in bits(x_i), so a
change of one element never goes unseen, of several with probability 2^-64.
"""

import concurrent.futures
import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

_WIDTH, _ROWS = 1021, 128  # words in a row, rows summed together
_SPREAD = np.uint32(0x9E3779B1)  # c: 2^32 over the golden ratio, odd


def named(tree: Any) -> dict[str, Any]:
    """Returns a tree's leaves by their "/"-joined paths."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): leaf for p, leaf in leaves}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Described:
    """An array as it was; its digest may still be under way on a device."""

    shape: tuple[int, ...]
    dtype: str
    digest: str | jax.Array

    def to_json(self) -> dict[str, Any]:
        """Returns JSON values, once the device has the digest."""
        return {"shape": list(self.shape), "dtype": self.dtype, "digest": _text(self.digest)}


def describe(tree: Any) -> dict[str, Described]:
    """Takes every leaf's digest, by the leaf's path.

    The arrays may be donated as soon as this returns. Every process must call it.
    """
    leaves = named(tree)
    taken = threaded(lambda leaf: _columns(leaf) if _is_at_hand(leaf) else "", leaves.values())
    return {
        path: Described(shape=np.shape(leaf), dtype=np.dtype(leaf.dtype).name, digest=digest or _mix(leaf))
        for (path, leaf), digest in zip(leaves.items(), taken, strict=True)
    }


def threaded(function: Callable[[Any], str], items: Iterable[Any]) -> list[str]:
    """Maps in threads: hashing lets other threads run."""
    with concurrent.futures.ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        return list(pool.map(function, items))


def again(leaf: Any, digest: str) -> str:
    """Takes the same kind of digest of a leaf; every process must call it."""
    return _text(_mix(leaf)) if digest.startswith("mix:") else _columns(to_host(leaf))


def to_host(leaf: Any) -> np.ndarray:
    """Returns an array whole, not a copy where its buffer can be read; every process must call."""
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
    return np.asarray(leaf)


def _text(digest: str | jax.Array) -> str:
    if isinstance(digest, str):
        return digest
    first, second = np.asarray(digest).tolist()
    return f"mix:{first:08x}{second:08x}"


def _is_at_hand(leaf: Any) -> bool:
    if not isinstance(leaf, jax.Array):
        return True
    on_cpu = {device.platform for device in leaf.devices()} == {"cpu"}
    return on_cpu and (leaf.is_fully_addressable or leaf.is_fully_replicated)


def _columns(array: Any) -> str:
    content = _bytes(array)
    rows = content.size // (8 * _WIDTH)
    words, rest = content[: 8 * rows * _WIDTH], content[8 * rows * _WIDTH :]
    table = words.view(np.uint64).reshape(rows, _WIDTH)
    whole = rows // _ROWS * _ROWS
    digest = hashlib.sha256(table[:whole].reshape(-1, _ROWS, _WIDTH).sum(axis=1))
    digest.update(table[whole:].sum(axis=0))
    digest.update(rest.data)
    return f"columns:{digest.hexdigest()[:32]}"


def _bytes(array: Any) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


@jax.jit
def _mix(array: jax.Array) -> jax.Array:
    """Returns the two sums, (2,) uint32."""
    bits = _bits(array)
    place = jnp.zeros(bits.shape, jnp.uint32)
    for axis, size in enumerate(bits.shape):  # by axes: a reshape would gather what is sharded
        place = place * np.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
    mixed = _scramble(bits ^ (place * _SPREAD))
    return jnp.stack([jnp.sum(mixed, dtype=jnp.uint32), jnp.sum(mixed * (2 * place + 1), dtype=jnp.uint32)])


def _bits(array: jax.Array) -> jax.Array:
    """Returns an array's bits as uint32, of 8-byte types with one more axis."""
    if array.dtype == bool:
        return array.astype(jnp.uint32)
    word = {1: jnp.uint8, 2: jnp.uint16}.get(array.dtype.itemsize, jnp.uint32)
    return jax.lax.bitcast_convert_type(array, word).astype(jnp.uint32)


def _scramble(x: jax.Array) -> jax.Array:
    """Scrambles 32 bits, one to one: the finalizer of MurmurHash3 (Appleby, public domain)."""
    x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


_CHUNK = 1 << 22  # bytes


def host_leaves(tree: Any) -> dict[str, np.ndarray]:
    """Returns every leaf on the host, {"/"-joined path: array}; every process must call it."""
    return {path: to_host(leaf) for path, leaf in named(tree).items()}


def of_array(array: np.ndarray) -> str:
    """Hashes an array's type, shape and bytes, in row-major order."""
    head = hashlib.sha256(f"{array.dtype.name}{array.shape}".encode())
    head.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return head.hexdigest()


def of_tree(tree: Any) -> str:
    """Hashes a tree to one digest, that of its leaves' paths and digests.

    Every process must call it where leaves are sharded over processes.
    """
    arrays = host_leaves(tree)
    digests = dict(zip(arrays, threaded(of_array, arrays.values()), strict=True))
    lines = "".join(f"{path} {digest}\n" for path, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def of_files(directory: epath.Path, *, largest: int) -> dict[str, str]:
    """Hashes every file under a directory: {path relative to it: digest}.

    Of files larger than `largest` bytes only the size is taken.
    """
    paths = sorted(_walk(directory))
    digests = threaded(functools.partial(_of_file, largest=largest), paths)
    return {p.relative_to(directory).as_posix(): d for p, d in zip(paths, digests, strict=True)}


def _of_file(path: epath.Path, *, largest: int) -> str:
    if (size := path.stat().length) > largest:
        return f"{size} bytes"
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _walk(directory: epath.Path) -> Iterable[epath.Path]:
    for path in directory.iterdir():
        if path.is_dir():
            yield from _walk(path)
        else:
            yield path
