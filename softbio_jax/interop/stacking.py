"""Between one entry per block (`encoder/blocks/3/...`) and stacked trunk and tail."""

import re
from collections.abc import Mapping

import numpy as np

from softbio_jax.errors import UserError

_STACKED = re.compile(r"(encoder|text)/(trunk|tail)/(.+)")
_BLOCK = re.compile(r"(encoder|text)/blocks/(\d+)/(.+)")


def unstack(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns `encoder/trunk/x` (L - k, ...) and `encoder/tail/x` (k, ...) as one entry per block.

    The entries `encoder/blocks/{i}/x`, i = 0..L-1, are views; other leaves are unchanged. The same
    for `text/`.

    Raises:
      UserError: two leaves that become one.
    """
    trunk_layers = {
        match[1]: len(array)
        for path, array in arrays.items()
        if (match := _STACKED.fullmatch(path)) and match[2] == "trunk"
    }
    result: dict[str, np.ndarray] = {}
    sources: dict[str, str] = {}
    for path, array in arrays.items():
        rows = {path: array}
        if match := _STACKED.fullmatch(path):
            encoder, part, leaf = match.groups()
            first = 0 if part == "trunk" else trunk_layers.get(encoder, 0)
            rows = {f"{encoder}/blocks/{first + i}/{leaf}": row for i, row in enumerate(array)}
        for name, row in rows.items():
            _claim(sources, name, path)
            result[name] = row
    return result


def first(arrays: Mapping[str, np.ndarray], blocks: int) -> dict[str, np.ndarray]:
    """Returns the leaves of `unstack` without those of the encoder's later blocks."""
    found = {path: _BLOCK.fullmatch(path) for path in arrays}
    later = {
        path for path, match in found.items() if match and match[1] == "encoder" and int(match[2]) >= blocks
    }
    return {path: array for path, array in arrays.items() if path not in later}


def _claim(sources: dict[str, str], name: str, source: str) -> None:
    """Notes which leaf an entry comes from."""
    if name in sources:
        raise UserError(
            "two leaves of one place",
            where=name,
            expected="each once, stacked or one entry per block",
            found=f"{sources[name]} and {source}",
            fix="remove one of them",
        )
    sources[name] = source


def stack(arrays: Mapping[str, np.ndarray], *, tail: int = 0) -> dict[str, np.ndarray]:
    """Stacks block leaves on a leading layer axis; the inverse of `unstack`.

    tail is the number of the encoder's last blocks that go to `encoder/tail`, in [0, L].

    Raises:
      UserError: two leaves that become one, or blocks that are not 0..L-1.
    """
    result: dict[str, np.ndarray] = {}
    sources: dict[str, str] = {}
    rows: dict[tuple[str, str], dict[int, np.ndarray]] = {}
    for path, array in arrays.items():
        if match := _BLOCK.fullmatch(path):
            _claim(sources, f"{match[1]}/blocks/{int(match[2])}/{match[3]}", path)
            rows.setdefault((match[1], match[3]), {})[int(match[2])] = array
        else:
            _claim(sources, path, path)
            result[path] = array
    for (encoder, leaf), blocks in rows.items():
        if sorted(blocks) != list(range(len(blocks))):
            raise UserError(
                "a leaf that some blocks lack",
                where=f"{encoder}/blocks/*/{leaf}",
                expected=f"blocks 0 to {max(blocks)}",
                found=", ".join(map(str, sorted(blocks))),
                fix="give all blocks",
            )
        ordered = [blocks[i] for i in sorted(blocks)]
        first_of_tail = len(ordered) - (tail if encoder == "encoder" else 0)
        for part, chosen in (("trunk", ordered[:first_of_tail]), ("tail", ordered[first_of_tail:])):
            if chosen:
                _claim(sources, f"{encoder}/{part}/{leaf}", f"{encoder}/blocks/*/{leaf}")
                result[f"{encoder}/{part}/{leaf}"] = np.stack(chosen)
    return result
