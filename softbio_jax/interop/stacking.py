"""Between one entry per block (`encoder/blocks/3/...`) and stacked trunk and tail."""

import re
from collections.abc import Mapping

import numpy as np

_STACKED = re.compile(r"(encoder|text)/(trunk|tail)/(.+)")
_BLOCK = re.compile(r"(encoder|text)/blocks/(\d+)/(.+)")


def unstack(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns `encoder/trunk/x` (L - k, ...) and `encoder/tail/x` (k, ...) as one entry per block.

    The entries `encoder/blocks/{i}/x`, i = 0..L-1, are views; other leaves are unchanged. The same
    for `text/`.
    """
    trunk_layers = {
        match[1]: len(array)
        for path, array in arrays.items()
        if (match := _STACKED.fullmatch(path)) and match[2] == "trunk"
    }
    result = {}
    for path, array in arrays.items():
        match = _STACKED.fullmatch(path)
        if not match:
            result[path] = array
            continue
        encoder, part, leaf = match.groups()
        first = 0 if part == "trunk" else trunk_layers.get(encoder, 0)
        result |= {f"{encoder}/blocks/{first + i}/{leaf}": row for i, row in enumerate(array)}
    return result


def stack(arrays: Mapping[str, np.ndarray], *, tail: int = 0) -> dict[str, np.ndarray]:
    """Stacks block leaves on a leading layer axis; the inverse of `unstack`.

    tail is the number of the encoder's last blocks that go to `encoder/tail`, in [0, L].
    """
    result: dict[str, np.ndarray] = {}
    rows: dict[tuple[str, str], dict[int, np.ndarray]] = {}
    for path, array in arrays.items():
        if match := _BLOCK.fullmatch(path):
            rows.setdefault((match[1], match[3]), {})[int(match[2])] = array
        else:
            result[path] = array
    for (encoder, leaf), blocks in rows.items():
        ordered = [blocks[i] for i in sorted(blocks)]
        first_of_tail = len(ordered) - (tail if encoder == "encoder" else 0)
        for part, chosen in (("trunk", ordered[:first_of_tail]), ("tail", ordered[first_of_tail:])):
            if chosen:
                result[f"{encoder}/{part}/{leaf}"] = np.stack(chosen)
    return result
