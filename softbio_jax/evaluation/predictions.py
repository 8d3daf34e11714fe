"""One model's class probabilities on one test set, checked on construction."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from softbio_jax.errors import UserError
from softbio_jax.tasks import MISSING, TASKS

# Nine probabilities printed with four decimals are off by at most 9 * 5e-5.
SUM_TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predictions:
    """Class probabilities and labels of one test set, one row per example.

    Args:
      name: the test set's name, also its key in every table and its file's name.
      ids: (N,) unique, non-empty strings, stable between runs.
      labels: task -> (N,) int32 class index, `MISSING` where the example has no label.
      probabilities: task -> (N, C) float32, rows that sum to one; the same tasks as `labels`.
      audit: column -> (N,) strings for audits only (race, ...), empty where unknown.
      synthetic_labels: tasks whose labels are another model's output; they are reported but
        excluded from the averages.

    Raises:
      UserError: an empty set, duplicate ids, a label out of range, probabilities that are
        negative, not finite or do not sum to one; the message names the first row (from 1).
    """

    name: str
    ids: np.ndarray
    labels: Mapping[str, np.ndarray]
    probabilities: Mapping[str, np.ndarray]
    audit: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    synthetic_labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "ids", np.asarray(self.ids, dtype=str))
        put(self, "labels", {t: np.asarray(v, np.int32) for t, v in self.labels.items()})
        put(self, "probabilities", {t: np.asarray(v, np.float32) for t, v in self.probabilities.items()})
        put(self, "audit", {k: np.asarray(v, dtype=str) for k, v in self.audit.items()})
        put(self, "synthetic_labels", tuple(self.synthetic_labels))
        _check_ids(self.name, self.ids)
        _check_tasks(self)
        for task in self.labels:
            _check_labels(self, task)
            _check_probabilities(self, task)

    def __len__(self) -> int:
        return len(self.ids)

    def tasks(self) -> list[str]:
        """Returns the tasks with at least one labelled example, in the vocabulary's order."""
        return [t for t in TASKS if t in self.labels and np.any(self.labels[t] != MISSING)]

    def labelled(self, task: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns the labels (n,) and probabilities (n, C) of the examples labelled for `task`."""
        known = self.labels[task] != MISSING
        return self.labels[task][known], self.probabilities[task][known]

    def take(self, rows: np.ndarray, *, name: str | None = None) -> "Predictions":
        """Returns the examples at `rows` (indices, in that order, or a boolean mask)."""
        return dataclasses.replace(
            self,
            name=self.name if name is None else name,
            ids=self.ids[rows],
            labels={t: v[rows] for t, v in self.labels.items()},
            probabilities={t: v[rows] for t, v in self.probabilities.items()},
            audit={k: v[rows] for k, v in self.audit.items()},
        )


def _check_ids(name: str, ids: np.ndarray) -> None:
    where = f"predictions {name!r}"
    if ids.ndim != 1 or len(ids) == 0:
        fix = "provide a set with examples"
        raise UserError("empty test set", where=where, expected="at least one example", found="none", fix=fix)
    empty = np.flatnonzero(ids == "")
    if len(empty):
        where = f"{where} {rows_text(empty)}"
        fix = "give every row an id"
        raise UserError("missing id", where=where, expected="an id", found="an empty cell", fix=fix)
    _, first = np.unique(ids, return_index=True)
    if len(first) != len(ids):
        again = np.setdiff1d(np.arange(len(ids)), first)
        where, found = f"{where} {rows_text(again)}", repr(str(ids[again[0]]))
        expected, fix = "one row per id", "give every example its own id"
        raise UserError("duplicate id", where=where, expected=expected, found=found, fix=fix)


def _check_tasks(predictions: Predictions) -> None:
    where = f"predictions {predictions.name!r}"
    for task in [*predictions.labels, *predictions.synthetic_labels]:
        if task not in TASKS:
            known = " or ".join(TASKS)
            raise UserError("unknown task", where=where, expected=known, found=repr(task), fix="rename it")
    if not predictions.labels or set(predictions.labels) != set(predictions.probabilities):
        raise UserError(
            "tasks of labels and probabilities differ",
            where=where,
            expected=f"probabilities for {sorted(predictions.labels)}",
            found=str(sorted(predictions.probabilities)),
            fix="provide both for each task",
        )
    n = len(predictions)
    for kind in ("labels", "probabilities", "audit"):
        for key, values in getattr(predictions, kind).items():
            expected = (n, TASKS[key].num_classes) if kind == "probabilities" else (n,)
            if values.shape != expected:
                where, shape, fix = f"{where} {key!r}", str(values.shape), "provide one row per example"
                raise UserError(
                    f"{kind} of another shape", where=where, expected=str(expected), found=shape, fix=fix
                )


def _check_labels(predictions: Predictions, task: str) -> None:
    labels, spec = predictions.labels[task], TASKS[task]
    bad = np.flatnonzero((labels != MISSING) & ((labels < 0) | (labels >= spec.num_classes)))
    if len(bad):
        raise UserError(
            f"unknown {task} label",
            where=f"predictions {predictions.name!r} {rows_text(bad)}",
            expected=f"0..{spec.num_classes - 1} or {MISSING}",
            found=str(labels[bad[0]]),
            fix="use the task's own numbering, -1 where a label is missing",
        )


def _check_probabilities(predictions: Predictions, task: str) -> None:
    values = predictions.probabilities[task]
    sums = values.sum(axis=1, dtype=np.float64)
    good = np.isfinite(values).all(axis=1) & (values >= 0).all(axis=1)
    good &= np.abs(sums - 1) <= SUM_TOLERANCE
    bad = np.flatnonzero(~good)
    if len(bad):
        raise UserError(
            f"{task} probabilities do not sum to one",
            where=f"predictions {predictions.name!r} {rows_text(bad)}",
            expected=f"values >= 0 with sum 1 +- {SUM_TOLERANCE:g}",
            found=f"sum {sums[bad[0]]:.6g}, minimum {values[bad[0]].min():.6g}",
            fix="apply a softmax over the task's classes",
        )


def rows_text(rows: Sequence[int] | np.ndarray, *, first_row: int = 1) -> str:
    """Returns "row 3" or "rows 3, 8, 9 and 4 more" for zero-based indices."""
    shown = [str(int(row) + first_row) for row in rows[:3]]
    more = len(rows) - len(shown)
    text = ", ".join(shown) + (f" and {more} more" if more else "")
    return f"{'row' if len(rows) == 1 else 'rows'} {text}"
