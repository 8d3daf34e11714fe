"""SHA-256 digests of array trees and of files, taken once a start or of little."""

import functools
import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from etils import epath

from softbio_jax.checkpoints.leaves import named, threaded, to_host

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
