"""Rule tables between two checkpoint layouts, applied in either direction, and strict checks."""

import dataclasses
import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from softbio_jax.errors import UserError

Arrays = tuple[np.ndarray, ...]
Shapes = Mapping[str, tuple[int, ...]]
Step = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transform:
    """One source array to one or more target arrays (`forward`) and back (`backward`)."""

    name: str
    forward: Callable[[np.ndarray], Arrays]
    backward: Callable[..., np.ndarray]


def _split_rows(array: np.ndarray) -> Arrays:
    width = array.shape[0] // 3
    return array[:width], array[width:]


def _projection_from_head(weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    if np.any(bias):
        raise UserError(
            "the head's bias is not zero",
            where="head.bias",
            expected="zeros, as the projection has no bias",
            found=f"values up to {np.abs(bias).max():.3g}",
            fix="scripts/convert.py --head_of=ENCODER drops it and takes the projection of that encoder",
        )
    return weight.T


SAME = Transform(name="same", forward=lambda a: (a,), backward=lambda a: a)
# torch Linear (out, in) <-> kernel (in, out)
TRANSPOSE = Transform(name="transpose", forward=lambda a: (a.T,), backward=lambda a: a.T)
# torch Conv2d (out, in, rows, columns) <-> kernel (rows, columns, in, out)
CONV = Transform(
    name="conv", forward=lambda a: (a.transpose(2, 3, 1, 0),), backward=lambda a: a.transpose(3, 2, 0, 1)
)
# Fused rows [q; k; v] <-> q and [k; v], for a vector or a torch Linear.
SPLIT_ROWS = Transform(name="split rows", forward=_split_rows, backward=lambda q, kv: np.concatenate([q, kv]))
SPLIT_ROWS_TRANSPOSE = Transform(
    name="split rows, transpose",
    forward=lambda a: tuple(part.T for part in _split_rows(a)),
    backward=lambda q, kv: np.concatenate([q.T, kv.T]),
)
# Fused rows [q; k; v] <-> q, k, v, for a vector or a torch Linear.
THIRDS = Transform(
    name="thirds", forward=lambda a: tuple(np.split(a, 3)), backward=lambda q, k, v: np.concatenate([q, k, v])
)
# Fused rows [q; k; v] of a torch Linear <-> kernels (in, out) of q, k, v.
THIRDS_TRANSPOSE = Transform(
    name="thirds, transpose",
    forward=lambda a: tuple(part.T for part in np.split(a, 3)),
    backward=lambda q, k, v: np.concatenate([q.T, k.T, v.T]),
)
# The fused gate and value of SwiGLU <-> each, for a vector or a torch Linear.
HALVES = Transform(
    name="halves", forward=lambda a: tuple(np.split(a, 2)), backward=lambda a, b: np.concatenate([a, b])
)
# The fused biases of q, k, v <-> those of q and v, where k has none. What is unset, NaN, stays so.
WITHOUT_KEY = Transform(
    name="without k",
    forward=lambda a: (a[: a.shape[0] // 3], a[2 * (a.shape[0] // 3) :]),
    backward=lambda q, v: np.concatenate([q, np.where(np.isnan(q), q, np.zeros_like(q)), v]),
)
# timm writes the projection (in, out) as a linear head whose bias it adds as zeros.
HEAD = Transform(
    name="head with zero bias",
    forward=lambda a: (a.T, np.zeros(a.shape[1], a.dtype)),
    backward=_projection_from_head,
)


def lead(axes: int) -> Transform:
    """Returns (...) <-> (1, ..., ...): timm stores its tokens with leading axes of size 1."""
    return Transform(
        name=f"lead {axes}",
        forward=lambda a: (a.reshape((1,) * axes + a.shape),),
        backward=lambda a: a.reshape(a.shape[axes:]),
    )


@dataclasses.dataclass(frozen=True)
class Rule:
    """`source` becomes `targets` by `transform`; `{i}` in either is a block's number."""

    source: str
    targets: str | tuple[str, ...]
    transform: Transform

    @property
    def target_names(self) -> tuple[str, ...]:
        return (self.targets,) if isinstance(self.targets, str) else self.targets


class KeyMap:
    """A table of rules that maps one layout to another and back.

    >>> from softbio_jax.interop.keymap import TRANSPOSE
    >>> keymap = KeyMap([Rule("blocks.{i}.fc.weight", "blocks/{i}/fc/kernel", TRANSPOSE)])
    >>> list(keymap.forward({"blocks.7.fc.weight": np.zeros((2, 3))}))
    ['blocks/7/fc/kernel']
    """

    def __init__(self, rules: Sequence[Rule]):
        self.rules = tuple(rules)
        self._by_source = [(_pattern(rule.source), rule) for rule in self.rules]
        self._by_target = [(_pattern(name), rule) for rule in self.rules for name in rule.target_names]

    def forward(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Maps source arrays to targets.

        Raises:
          KeyError: a key without a rule; compare with the layout's shapes first.
        """
        result: dict[str, np.ndarray] = {}
        for key, array in arrays.items():
            rule, block = _match(self._by_source, key)
            names = _fill(rule.target_names, block)
            result |= dict(zip(names, rule.transform.forward(array), strict=True))
        return result

    def backward(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Maps targets back to source arrays, the inverse of `forward`.

        Raises:
          KeyError: a key without a rule, or with a missing partner that the rule joins it to.
        """
        result: dict[str, np.ndarray] = {}
        for key in arrays:
            rule, block = _match(self._by_target, key)
            names = _fill(rule.target_names, block)
            if key == names[0]:
                joined = rule.transform.backward(*(arrays[name] for name in names))
                result[rule.source.replace("{i}", block)] = joined
        return result


@dataclasses.dataclass(frozen=True, kw_only=True)
class Format:
    """A layout as a mapping to the official one and back: opened, to_official; from_official, closed."""

    name: str
    holds: Callable[[Mapping[str, object]], bool]  # whether the keys of a file are this format's
    key: str  # the patch embedding, by which a level of a file is found
    head: tuple[str, ...]  # how the names of the projection begin, and of a head in its place
    to_official: Step = dict
    from_official: Step = dict
    opened: Step = dict  # a file's arrays to one entry per parameter and block
    closed: Step = dict  # the inverse


def linear(source: str, target: str) -> list[Rule]:
    """Returns the rules of a weight and a bias that two layouts have alike."""
    return [Rule(f"{source}.{leaf}", f"{target}.{leaf}", SAME) for leaf in ("weight", "bias")]


def shapes_of(arrays: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each array."""
    return {key: tuple(array.shape) for key, array in arrays.items()}


def hollow(shapes: Shapes) -> dict[str, np.ndarray]:
    """Returns arrays of these shapes that use no memory, to map names and shapes."""
    return {key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.escape(template).replace(r"\{i\}", r"(\d+)"))


def _match(table: Sequence[tuple[re.Pattern[str], Rule]], key: str) -> tuple[Rule, str]:
    for pattern, rule in table:
        if match := pattern.fullmatch(key):
            return rule, match.group(1) if match.groups() else ""
    raise KeyError(key)


def _fill(names: tuple[str, ...], block: str) -> tuple[str, ...]:
    return tuple(name.replace("{i}", block) for name in names)


def check_shapes(found: Shapes, expected: Shapes, *, where: str, layout: str) -> None:
    """Checks the shapes found in the file `where` against those of a layout.

    Raises:
      UserError: every missing name, unknown name (with the nearest candidate) and other shape.
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
        raise UserError(
            "the arrays do not fit",
            where=where,
            expected=f"the {len(expected)} of {layout}",
            found="; ".join(parts),
            fix="name the variant and format the file was written for",
        )


def check_finite(arrays: Mapping[str, np.ndarray], *, where: str) -> None:
    """Checks that the arrays of the file `where` are finite.

    Raises:
      UserError: every array with infinities or NaN.
    """
    bad = []
    for name, array in arrays.items():
        wrong = 0 if array.dtype.kind in "iub" else int(array.size - np.count_nonzero(np.isfinite(array)))
        if wrong:
            bad.append(f"{name} ({wrong} of {array.size}, {array.dtype})")
    if bad:
        raise UserError(
            "infinities or NaN among the weights",
            where=where,
            expected="finite numbers",
            found=", ".join(bad),
            fix="start from the weights' original precision",
        )


def _collapse(texts: Sequence[str]) -> list[str]:
    """Joins entries that differ only in a block's number: `blocks.{0..11}.ls_1.gamma`."""
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
    contiguous = values == list(range(values[0], values[-1] + 1))
    return f"{values[0]}..{values[-1]}" if contiguous else ",".join(map(str, values))


def _nearest(name: str, candidates: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(candidates), n=1, cutoff=0.4)
    return f" nearest {near[0]}" if near else ""


def _show(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
