"""Checks that a set of named arrays is exactly what a layout needs, told in one message."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from softbio_jax.errors import UserError
from softbio_jax.interop.keymap import Shapes


def check_shapes(found: Shapes, expected: Shapes, *, where: str, layout: str) -> None:
    """Raises one error that lists every difference between two sets of named shapes.

    Args:
      found: name -> shape in the file.
      expected: name -> shape of the layout.
      where: the file.
      layout: the layout's name, for the message.

    Raises:
      UserError: a name missing, a name not known (with the nearest candidate), another shape.
    """
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    reshaped = [
        f"{name} is {_show(found[name])} not {_show(expected[name])}"
        for name in expected
        if name in found and tuple(found[name]) != tuple(expected[name])
    ]
    parts = []
    if missing:
        parts.append(f"{len(missing)} missing ({', '.join(_collapse(missing))})")
    if extra:
        candidates = _collapse(missing) or list(expected)
        named = [name + _nearest(name, candidates) for name in _collapse(extra)]
        parts.append(f"{len(extra)} not known ({', '.join(named)})")
    if reshaped:
        parts.append(f"{len(reshaped)} of another shape ({', '.join(_collapse(reshaped))})")
    if parts:
        raise UserError("the arrays do not fit", where=where,
                        expected=f"the {len(expected)} of {layout}", found="; ".join(parts),
                        fix="name the variant and format the file was written for")  # fmt: skip


def check_finite(arrays: Mapping[str, np.ndarray], *, where: str) -> None:
    """Raises one error that lists every array holding infinities or NaN.

    Raises:
      UserError: as said.
    """
    bad = []
    for name, array in arrays.items():
        if array.dtype.kind not in "iub":
            wrong = int(array.size - np.count_nonzero(np.isfinite(array)))
            if wrong:
                bad.append(f"{name} ({wrong} of {array.size}, {array.dtype})")
    if bad:
        raise UserError("infinities or NaN among the weights", where=where,
                        expected="finite numbers", found=", ".join(bad),
                        fix="start from the weights' original precision")  # fmt: skip


def _collapse(texts: Sequence[str]) -> list[str]:
    """Joins entries that differ in one block's number alone: `blocks.{0..11}.ls_1.gamma`."""
    groups: dict[tuple[str, str], list[str]] = {}
    for text in texts:
        match = re.search(r"(?<=[./])\d+(?=[./])", text)
        parts = (text[: match.start()], text[match.end() :]) if match else (text, "")
        groups.setdefault(parts, []).append(match.group() if match else "")
    return [
        head + (numbers[0] if len(numbers) == 1 else "{" + _ranges(numbers) + "}") + tail
        for (head, tail), numbers in groups.items()
    ]


def _ranges(numbers: Sequence[str]) -> str:
    values = sorted(map(int, numbers))
    whole = values == list(range(values[0], values[-1] + 1))
    return f"{values[0]}..{values[-1]}" if whole else ",".join(map(str, values))


def _nearest(name: str, candidates: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(candidates), n=1, cutoff=0.4)
    return f" nearest {near[0]}" if near else ""


def _show(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
