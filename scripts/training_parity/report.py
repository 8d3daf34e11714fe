"""A comparison as a user reads it, and as the table of the documentation is made of it."""

import json
import pathlib
from typing import Any

from softbio_jax import files
from training_parity.comparison import BOUND, TIMES, Narrow, Wide
from training_parity.ladder import Rung


def wide_text(wide: Wide, *, bound: float = BOUND) -> str:
    """Returns the lines of a comparison in float64: the worst of each kind, and where the sides part."""
    rows = [f"{'kind':<15}{'largest |d|':>12}{'step':>6}  leaf and operation"]
    rows += [_row(kind, f"{rung.difference:>12.2e}", rung) for kind, rung in wide.worst.items()]
    rows += _zeros(wide.zero)
    if wide.first is None:
        return "\n".join([*rows, f"every leaf agrees to {bound:.0e} after every step"])
    return "\n".join([*rows, f"first to diverge: {wide.first}"])


def narrow_text(narrow: Narrow) -> str:
    """Returns the lines of a comparison in float32: both sides' distances from PyTorch in float64."""
    rows = [f"{'kind':<15}{'largest |d|':>12}{'torch':>10}{'times':>7}{'step':>6}  leaf and operation"]
    for kind, rung in narrow.ours.items():
        own = f"{rung.difference:>12.2e}{narrow.torch[kind].difference:>10.2e}{narrow.times(kind):>7.2f}"
        rows.append(_row(kind, own, rung))
    rows += _zeros(narrow.zero)
    if not (far := narrow.beyond()):
        return "\n".join([*rows, f"no kind is more than {TIMES:g} times as far from float64 as PyTorch"])
    return "\n".join([*rows, f"first to diverge: {narrow.ours[far[0]]}"])


def _row(kind: str, numbers: str, rung: Rung) -> str:
    return f"{kind:<15}{numbers}{rung.step + 1:>6}  {rung.name}: {rung.operation}"


def _zeros(zero: list[str]) -> list[str]:
    return [f"zero by symmetry, relative to their layer: {', '.join(zero)}"] if zero else []


def as_json(comparison: Wide | Narrow, *, steps: int, seconds: float) -> dict[str, Any]:
    """Returns what the documentation's table needs of a comparison."""
    common = {"steps": steps, "seconds": round(seconds), "zero": comparison.zero}
    if isinstance(comparison, Wide):
        first = None if comparison.first is None else str(comparison.first)
        return common | {"dtype": "float64", "worst": _rungs(comparison.worst), "first": first}
    return common | {
        "dtype": "float32",
        "worst": _rungs(comparison.ours),
        "torch": _rungs(comparison.torch),
        "times": {kind: comparison.times(kind) for kind in comparison.ours},
    }


def _rungs(rungs: dict[str, Rung]) -> dict[str, Any]:
    return {
        kind: {"difference": rung.difference, "step": rung.step, "name": rung.name}
        for kind, rung in rungs.items()
    }


def save(path: pathlib.Path, name: str, values: dict[str, Any]) -> None:
    """Puts a comparison into a JSON file of several, under its name and type."""
    stored = json.loads(path.read_text()) if path.exists() else {}
    stored[f"{name}, {values['dtype']}"] = values
    files.write_text(path, json.dumps(stored, indent=1, sort_keys=True) + "\n")
