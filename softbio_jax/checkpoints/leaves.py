"""Digests of arrays: fast ones of a state's leaves at every save, SHA-256 of others and of files.

A SHA-256 of the state would take longer than writing it, so a save uses checksums that detect
damage but not forgery. Their prefix names the kind:

`columns`, of arrays in host memory. The 8-byte words, in row-major order, form rows of 1021; each
column is summed mod 2^64 over every 128 rows (checksums as of Huang and Abraham 1984), and the
digest is the SHA-256 of the sums. Damage within 8 KB changes each column at most once, so it is
always detected. 1021 is prime, so swapped blocks of a power of two end up in other columns. The
array is read once, without a copy.

`mix`, of arrays on accelerators or sharded over processes, computed by the devices: two sums mod
2^32 over the elements x_i, i counted in row-major order,

    sum_i m_i  and  sum_i m_i (2 i + 1)  with  m_i = mix(bits(x_i) xor i c),

which do not depend on the sharding and copy nothing to the host. The terms are one-to-one in
bits(x_i), so a change of one element is always detected, of several with probability 1 - 2^-64.
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
_SPREAD = np.uint32(0x9E3779B1)  # c: 2^32 over the golden ratio, odd; makes equal elements' terms differ
_CHUNK = 1 << 22  # bytes


def named(tree: Any) -> dict[str, Any]:
    """Returns a tree's leaves by their "/"-joined paths."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): leaf for p, leaf in leaves}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Described:
    """The description of an array; its digest may still be computing on a device."""

    shape: tuple[int, ...]
    dtype: str
    digest: str | jax.Array

    def to_json(self) -> dict[str, Any]:
        """Returns JSON values, after waiting for the digest."""
        return {"shape": list(self.shape), "dtype": self.dtype, "digest": _text(self.digest)}


def describe(tree: Any) -> dict[str, Described]:
    """Returns the description of every leaf by path; must be called on every process.

    The arrays may be donated once this returns.
    """
    leaves = named(tree)
    taken = threaded(lambda leaf: _columns(leaf) if _on_host(leaf) else "", leaves.values())
    return {
        path: Described(shape=np.shape(leaf), dtype=np.dtype(leaf.dtype).name, digest=digest or _mix(leaf))
        for (path, leaf), digest in zip(leaves.items(), taken, strict=True)
    }


def threaded(function: Callable[[Any], str], items: Iterable[Any]) -> list[str]:
    """Maps in threads: hashing releases the GIL."""
    with concurrent.futures.ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        return list(pool.map(function, items))


def again(leaf: Any, digest: str) -> str:
    """Returns the digest of a leaf of the same kind; must be called on every process."""
    return _text(_mix(leaf)) if digest.startswith("mix:") else _columns(to_host(leaf))


def to_host(leaf: Any) -> np.ndarray:
    """Returns the complete array, without a copy if possible; must be called on every process."""
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
    return np.asarray(leaf)


def _text(digest: str | jax.Array) -> str:
    if isinstance(digest, str):
        return digest
    first, second = np.asarray(digest).tolist()
    return f"mix:{first:08x}{second:08x}"


def _on_host(leaf: Any) -> bool:
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
    """Returns the two sums of `mix`, (2,) uint32."""
    bits = _bits(array)
    place = jnp.zeros(bits.shape, jnp.uint32)
    for axis, size in enumerate(bits.shape):  # per axis: a reshape would gather a sharded array
        place = place * np.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
    mixed = _scramble(bits ^ (place * _SPREAD))
    return jnp.stack([jnp.sum(mixed, dtype=jnp.uint32), jnp.sum(mixed * (2 * place + 1), dtype=jnp.uint32)])


def _bits(array: jax.Array) -> jax.Array:
    """Returns an array's bits as uint32; 8-byte types get one more axis."""
    if array.dtype == bool:
        return array.astype(jnp.uint32)
    word = {1: jnp.uint8, 2: jnp.uint16}.get(array.dtype.itemsize, jnp.uint32)
    return jax.lax.bitcast_convert_type(array, word).astype(jnp.uint32)


def _scramble(x: jax.Array) -> jax.Array:
    """Scrambles 32 bits one-to-one: the finalizer of MurmurHash3 (Appleby, public domain)."""
    x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def host_leaves(tree: Any) -> dict[str, np.ndarray]:
    """Returns {path: array on the host} of every leaf; must be called on every process."""
    return {path: to_host(leaf) for path, leaf in named(tree).items()}


def of_array(array: np.ndarray) -> str:
    """Returns the SHA-256 of an array's type, shape and bytes in row-major order."""
    head = hashlib.sha256(f"{array.dtype.name}{array.shape}".encode())
    head.update(_bytes(array).data)
    return head.hexdigest()


def of_tree(tree: Any) -> str:
    """Returns the SHA-256 of the paths and digests of a tree's leaves.

    Must be called on every process if leaves are sharded over processes.
    """
    arrays = host_leaves(tree)
    digests = dict(zip(arrays, threaded(of_array, arrays.values()), strict=True))
    lines = "".join(f"{path} {digest}\n" for path, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def of_files(directory: epath.Path, *, largest: int) -> dict[str, str]:
    """Returns {relative path: SHA-256} of the files in a directory, or the size of those over `largest`."""
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
