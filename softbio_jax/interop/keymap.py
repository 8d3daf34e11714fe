"""Rule tables between two checkpoint layouts, applied in either direction."""

import dataclasses
import re
from collections.abc import Mapping, Sequence

import numpy as np

from softbio_jax.interop.transforms import Transform

Shapes = Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Rule:
    """`source` becomes `targets` by `transform`; `{i}` in either stands for a block's number."""

    source: str
    targets: str | tuple[str, ...]
    transform: Transform

    @property
    def target_names(self) -> tuple[str, ...]:
        return (self.targets,) if isinstance(self.targets, str) else self.targets


class KeyMap:
    """A table of rules: the one place where two layouts meet.

    >>> from softbio_jax.interop.transforms import TRANSPOSE
    >>> keymap = KeyMap([Rule("blocks.{i}.fc.weight", "blocks/{i}/fc/kernel", TRANSPOSE)])
    >>> list(keymap.forward({"blocks.7.fc.weight": np.zeros((2, 3))}))
    ['blocks/7/fc/kernel']
    """

    def __init__(self, rules: Sequence[Rule]):
        self.rules = tuple(rules)
        self._by_source = [(_pattern(rule.source), rule) for rule in self.rules]
        self._by_target = [
            (_pattern(name), rule) for rule in self.rules for name in rule.target_names
        ]

    def forward(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Maps source arrays to targets.

        Raises:
          KeyError: a key that no rule knows; compare with the layout's shapes first.
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
          KeyError: a key that no rule knows, or one of a pair that a rule joins is absent.
        """
        result: dict[str, np.ndarray] = {}
        for key in arrays:
            rule, block = _match(self._by_target, key)
            names = _fill(rule.target_names, block)
            if key == names[0]:
                joined = rule.transform.backward(*(arrays[name] for name in names))
                result[rule.source.replace("{i}", block)] = joined
        return result


def shapes_of(arrays: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each array."""
    return {key: tuple(array.shape) for key, array in arrays.items()}


def hollow(shapes: Shapes) -> dict[str, np.ndarray]:
    """Returns arrays of these shapes that take no memory, to see where a map leads."""
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
