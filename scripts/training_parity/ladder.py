"""The training ladder: both sides compared after every step, and the first place where they part."""

import dataclasses
import re
from collections.abc import Callable, Iterable

import numpy as np

from training_parity.record import KINDS, LEAVES, Arrays, Record

# A gradient below this share of its layer's largest is zero by symmetry.
_ZERO = 1e-9
_FUSED = {"attn/qkv/bias": 3, "attn/kv/bias": 2}
# Passes of the network, from the loss down: a fault shows first where the gradient passes first.
_DOWNWARDS = (r"balance/.*", r"heads/.*", r"pool/.*", r"encoder/tail/.*", r"encoder/trunk/.*", r".*")
_WITHIN = (r".*/dense_out/", r".*/dense_0/", r".*/mlp/c_proj/", r".*/mlp/c_fc/", r".*/attn/out/", r".*")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rung:
    """One kind of one leaf after one step: its difference, relative to the reference's largest value."""

    step: int  # from 0
    kind: str
    name: str
    difference: float
    scale: float  # absolute

    @property
    def operation(self) -> str:
        """The operation whose result it is."""
        return operation(self.kind, self.name)

    def __str__(self) -> str:
        return f"step {self.step + 1}, {self.kind} {self.name} ({self.operation}): {self.difference:.2e}"


def operation(kind: str, name: str) -> str:
    """Returns what computes a leaf of a kind, as a reader would look it up."""
    layer, _, leaf = name.rpartition("/")
    if kind == "loss":
        return f"forward pass and cross-entropy of {name}"
    if kind == "total":
        return "balancing of the losses"
    if kind == "statistics":
        return f"running {leaf} of batch norm"
    if kind == "gradient":
        part = {"lora_a": "A of", "lora_b": "B of", "dora_magnitude": "DoRA's magnitude of"}
        return f"backward pass through {f'{part[leaf]} ' if leaf in part else ''}{layer or name}"
    if kind == "norm":
        return "global norm of the gradient"
    if kind == "rate":
        return f"schedule and rate of {name}"
    if kind == "first_moment":
        return "clipping, or AdamW's first moment"
    if kind == "second_moment":
        return "AdamW's second moment"
    return "AdamW's update: bias correction, epsilon or weight decay"


class Ladder:
    """Compares records of two sides, step by step.

    A gradient that is zero by symmetry, such as that of a bias before batch norm, is rounding alone, which
    AdamW scales up: such leaves are compared relative to the largest of their layer, and listed in `zero`.

    Args:
      measure: the size of a difference, and of what it is relative to; None: `largest`.
      lasting: whether a difference is relative to the largest size of its leaf in the steps so far, not in
        its own step, where a leaf of few elements may be near zero.
    """

    def __init__(
        self, measure: Callable[[np.ndarray], float] | None = None, *, lasting: bool = False
    ) -> None:
        self._measure, self._lasting = measure or largest, lasting
        self._scales: dict[tuple[str, str], float] = {}
        self.zero: set[str] = set()
        self.worst: dict[tuple[str, str], Rung] = {}
        self.steps = 0

    def compare(self, record: Record, reference: Record) -> list[Rung]:
        """Returns every rung of a step, in the order of the computation, and keeps the worst of each leaf.

        Raises:
          ValueError: the sides have other leaves.
        """
        layers = _layers(reference.gradient, largest)
        for path, leaf in reference.gradient.items():
            # Of q, k and v in one leaf, k's alone may be without a gradient.
            parts = (
                np.split(leaf, _FUSED.get("/".join(path.split("/")[-3:]), 1), axis=-1)
                if leaf.ndim
                else [leaf]
            )
            if any(0 < largest(part) <= _ZERO * layers[_layer(path)] for part in parts):
                self.zero.add(path)
        rungs = []
        for kind in KINDS:
            found, expected = getattr(record, kind), getattr(reference, kind)
            if found.keys() != expected.keys():
                raise ValueError(f"{kind}: {sorted(found.keys() ^ expected.keys())}")
            whole = _layers(expected, self._measure) if kind in LEAVES else {}
            for name in sorted(expected, key=_order):
                scale = self._measure(expected[name])
                if name in self.zero and kind in LEAVES:
                    scale = max(scale, whole[_layer(name)])
                if self._lasting:
                    scale = self._scales[kind, name] = max(scale, self._scales.get((kind, name), 0.0))
                apart = np.asarray(found[name], np.float64) - np.asarray(expected[name], np.float64)
                rungs.append(_rung(self.steps, kind, name, self._measure(apart), scale))
        for rung in rungs:
            key = (rung.kind, rung.name)
            if key not in self.worst or not rung.difference <= self.worst[key].difference:
                self.worst[key] = rung
        self.steps += 1
        return rungs

    def worst_of(self, kind: str) -> Rung | None:
        """Returns the largest difference of a kind over all steps and leaves."""
        found = [rung for (own, _), rung in self.worst.items() if own == kind]
        return max(found, key=lambda rung: (np.isnan(rung.difference), rung.difference), default=None)


def first_beyond(rungs: Iterable[Rung], limit: float) -> Rung | None:
    """Returns the first rung whose difference is not within a limit."""
    return next((rung for rung in rungs if not rung.difference <= limit), None)


def largest(array: np.ndarray) -> float:
    """Returns the largest absolute value."""
    return float(np.max(np.abs(array), initial=0.0))


def root_mean_square(array: np.ndarray) -> float:
    """Returns the root of the mean of the squares."""
    return float(np.sqrt(np.mean(np.square(array, dtype=np.float64))))


def _rung(step: int, kind: str, name: str, apart: float, scale: float) -> Rung:
    difference = 0.0 if apart == 0 else apart / scale if scale else np.inf
    return Rung(step=step, kind=kind, name=name, difference=difference, scale=scale)


def _layer(path: str) -> str:
    """Returns the block, the head or the pooling of a leaf."""
    parts = path.split("/")
    return "/".join(parts[:2]) if parts[0] in ("heads", "encoder") else parts[0]


def _layers(arrays: Arrays, measure: Callable[[np.ndarray], float]) -> dict[str, float]:
    """Returns the largest leaf of each layer, by a measure."""
    sizes: dict[str, float] = {}
    for path, array in arrays.items():
        sizes[_layer(path)] = max(sizes.get(_layer(path), 0.0), measure(array))
    return sizes


def _order(name: str) -> tuple[int, int, str]:
    def place(patterns: tuple[str, ...]) -> int:
        return next(i for i, pattern in enumerate(patterns) if re.match(pattern, name))

    return place(_DOWNWARDS), place(_WITHIN), name
