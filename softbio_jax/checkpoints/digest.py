"""SHA-256 digests of array trees and of files."""

import concurrent.futures
import functools
import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from etils import epath

_CHUNK = 1 << 22  # bytes


def host_leaves(tree: Any) -> dict[str, np.ndarray]:
    """Copies every leaf to the host: {"/"-joined path: array}.

    Every process gets the whole tree, so all must call it where leaves are sharded over processes.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): _to_host(x) for p, x in leaves}


def of_array(array: np.ndarray) -> str:
    """Hashes an array's type, shape and bytes, in row-major order."""
    head = hashlib.sha256(f"{array.dtype.name}{array.shape}".encode())
    head.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return head.hexdigest()


def of_arrays(arrays: dict[str, np.ndarray]) -> dict[str, str]:
    """Hashes every array, in threads: hashing lets other threads run."""
    return dict(zip(arrays, _threaded(of_array, arrays.values()), strict=True))


def of_tree(tree: Any) -> str:
    """Hashes a tree to one digest, that of its leaves' paths and digests."""
    digests = of_arrays(host_leaves(tree))
    lines = "".join(f"{path} {digest}\n" for path, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def of_files(directory: epath.Path, *, largest: int) -> dict[str, str]:
    """Hashes every file under a directory: {path relative to it: digest}.

    Of files larger than `largest` bytes only the size is taken.
    """
    paths = sorted(_walk(directory))
    digests = _threaded(functools.partial(_of_file, largest=largest), paths)
    return {p.relative_to(directory).as_posix(): d for p, d in zip(paths, digests, strict=True)}


def _threaded(function: Callable[[Any], str], items: Iterable[Any]) -> list[str]:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        return list(pool.map(function, items))


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


def _to_host(leaf: Any) -> np.ndarray:
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
    # A copy: on the CPU the array may share the buffer, which the next step is given.
    return np.array(leaf)
