"""What the labels of a training set leave possible, as weights that the loss reads."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from softbio_jax.data.partial import votes, years
from softbio_jax.data.sources import PreparedDataset
from softbio_jax.errors import UserError, nearest
from softbio_jax.tasks import AGE, AGE_SPANS, NUM_YEARS, TASKS

_NO_LABEL = 0  # row of every table


@dataclasses.dataclass(frozen=True, eq=False)
class Targets:
    """The weights of N examples of one task, as indices into the U different ones.

    Args:
      kind: "target", weights of a set, or "votes", distributions; the batch's key is {kind}/{task}.
      table: (U, K) float32; row 0 is all zero, for examples without a label. K = 101 years for age.
      index: (N,) int32.
    """

    kind: str
    table: np.ndarray
    index: np.ndarray

    @classmethod
    def of(cls, kind: str, table: np.ndarray, index: np.ndarray) -> Targets:
        """Returns the targets of examples with weights table[index]; those that say nothing have no label.

        A set says nothing if it is empty or whole, and votes if there are none.
        """
        table = np.asarray(table, np.float32)
        known = table.any(axis=1) if kind == "votes" else table.max(axis=1) > table.min(axis=1)
        number = np.where(known, np.cumsum(known), _NO_LABEL).astype(np.int32)
        return cls(kind, np.concatenate([np.zeros_like(table[:1]), table[known]]), number[index])

    @property
    def known(self) -> np.ndarray:
        """Which examples have a label, (N,) bool."""
        return self.index != _NO_LABEL

    def classes_of(self, example: int) -> np.ndarray:
        """Returns the weights of the classes of one example, (C,)."""
        return by_class(self.table[self.index[example]][None])[0]

    @property
    def full(self) -> np.ndarray:
        """Which examples have a label of one class only, (N,) bool."""
        return ((by_class(self.table) > 0).sum(axis=1) == 1)[self.index]

    def counts(self) -> dict[str, int]:
        """Returns the number of full and partial labels, and of examples without one ("none")."""
        full, known = self.full, self.known
        return {"full": int(full.sum()), "partial": int((known & ~full).sum()), "none": int((~known).sum())}

    def take(self, rows: np.ndarray) -> Targets:
        """Returns the targets of the examples `rows`."""
        return dataclasses.replace(self, index=self.index[rows])

    def masked(self, usable: np.ndarray) -> Targets:
        """Returns the targets without the labels of examples where `usable` (N,) is False."""
        return dataclasses.replace(self, index=np.where(usable, self.index, np.int32(_NO_LABEL)))

    def batch(self, task: str, examples: np.ndarray) -> dict[str, np.ndarray]:
        """Returns {kind}/{task} (b, K) and mask/{task} (b,) of examples (b,); negative ones are padding."""
        rows = np.where(examples < 0, _NO_LABEL, self.index[examples])
        return {f"{self.kind}/{task}": self.table[rows], f"mask/{task}": rows != _NO_LABEL}


def check_names(
    partial: Sequence[str],
    noise: Mapping[str, Mapping[str, Any]],
    *,
    sets: Sequence[str],
    tasks: Sequence[str],
) -> None:
    """Checks the tasks and sets that a configuration names.

    Args:
      partial: tasks with partial labels.
      noise: training set -> task -> noise.
      sets: the training sets.
      tasks: those that are trained.

    Raises:
      UserError: an unknown task or set, a task that is not trained, or one with both votes and noise.
    """
    named = [("partial", task, list(TASKS)) for task in partial]
    named += [("noise", name, list(sets)) for name in noise]
    named += [(f"noise.{name}", task, list(TASKS)) for name, found in noise.items() for task in found]
    for field, name, known in named:
        if name not in known:
            raise UserError(
                "labels of something unknown",
                where=f"data.labels.{field}",
                expected=f"one of {', '.join(known)}",
                found=repr(name),
                fix=nearest(name, known, otherwise="correct the name"),
            )
        if known == list(TASKS) and name not in tasks:
            raise UserError(
                "labels of a task that is not trained",
                where=f"data.labels.{field}",
                expected=f"one of {', '.join(tasks)}",
                found=name,
                fix="remove it, or add it to tasks",
            )
    noisy = {task for found in noise.values() for task in found}
    if both := sorted(noisy & set(partial) - {AGE.name}):
        raise UserError(
            "votes and noise for one task",
            where=f"data.labels.noise: {both[0]}",
            expected=f"no task of data.labels.partial, {', '.join(partial)}",
            found=both[0],
            fix="remove it from one of the two",
        )


def attach(
    dataset: PreparedDataset, kinds: Mapping[str, str], noise: Mapping[str, Any] | None = None
) -> PreparedDataset:
    """Returns a training set with `targets` for these tasks.

    Args:
      dataset: the set; its labels and columns say what is known.
      kinds: task -> "target" or "votes", see `data.partial.config.LabelConfig.kinds`.
      noise: task -> rate of wrong labels, or P(label | true class), of this set.

    Raises:
      UserError: a cell of the data, or a noise, that is none; noise of labels that the set lacks.
    """
    rows, noise, found = rows_of(dataset), noise or {}, {}
    for task, kind in kinds.items():
        where = f"data.labels.noise.{dataset.name}.{task}"
        found[task] = of_rows(rows, task, kind, noise=noise.get(task), where=where)
        if task in noise and not found[task].known.any():
            _require_labels(rows, task, kind, noise=noise[task], where=where)
    return dataclasses.replace(dataset, targets=found)


def _require_labels(rows: years.Rows, task: str, kind: str, *, noise: Any, where: str) -> None:
    """Raises the UserError of noise without labels, or after which every label says the same."""
    if of_rows(rows, task, kind).known.any():
        what, expected = "noise that leaves nothing of the labels", "a label to be likelier in some classes"
        raise UserError(what, where=where, expected=expected, found=repr(noise)[:80], fix="lower it")
    what, expected = "noise of labels that the set lacks", f"labels of {task} in {rows.where}"
    raise UserError(what, where=where, expected=expected, found="none", fix="remove it")


def rows_of(dataset: PreparedDataset) -> years.Rows:
    """Returns the labels and columns of a data set."""
    where = f"{dataset.name}/{dataset.split}"
    return years.Rows(dataset.labels, dataset.columns, dataset.columns["id"], where)


def of_rows(rows: years.Rows, task: str, kind: str, *, noise: Any = None, where: str = "") -> Targets:
    """Returns the targets of one task; the arguments are those of `attach`, `where` is the noise's field."""
    classes = TASKS[task].num_classes
    if kind == "votes":
        table, index = np.unique(votes.distributions(rows, task), axis=0, return_inverse=True)
        return Targets.of(kind, table, index.reshape(-1))
    if task == AGE.name:
        ends, index = np.unique(years.intervals(rows), axis=0, return_inverse=True)
        table, index = _years(ends.astype(np.int64)), index.reshape(-1)
    else:
        table, index = np.eye(classes + 1, classes), rows.of(task)  # MISSING = -1 picks the last
    if noise is not None:
        table = _corrected(table, confusion(noise, classes, where=where))
    return Targets.of(kind, table, index)


def in_columns(rows: years.Rows) -> dict[str, Targets]:
    """Returns the targets of every task whose ranges, years or votes are in the columns.

    Columns that hold something else, as a table's own may, are no labels.
    """
    kinds = {task: "votes" for task in TASKS if votes.column(task) in rows.columns}
    if set(years.COLUMNS) & set(rows.columns):
        kinds[AGE.name] = "target"
    found = {}
    for task, kind in kinds.items():
        with contextlib.suppress(UserError):
            found[task] = of_rows(rows, task, kind)
    return found


def concatenate(datasets: Sequence[PreparedDataset], task: str) -> Targets | None:
    """Returns a task's targets over all data sets, None where they have none."""
    parts = [dataset.targets[task] for dataset in datasets if task in dataset.targets]
    if not parts:
        return None
    starts = np.cumsum([0, *(len(part.table) for part in parts)])
    shifted = [np.where(p.known, p.index + start, 0) for p, start in zip(parts, starts, strict=False)]
    table = np.concatenate([part.table for part in parts])
    return Targets(parts[0].kind, table, np.concatenate(shifted).astype(np.int32))


def require_partial(datasets: Sequence[PreparedDataset], tasks: Sequence[str], *, years: bool) -> None:
    """Checks that the tasks of `data.labels.partial` have a partial label.

    Args:
      datasets: the training sets, with targets.
      tasks: the tasks.
      years: whether the age head has a bin per year, for which every label of age is a range.

    Raises:
      UserError: a task whose labels are all one class of the head, or none; names the first row.
    """
    for task in tasks:
        targets = concatenate(datasets, task)
        if targets is None or targets.counts()["partial"] or (task == AGE.name and years):
            continue
        where, found = "", "no label"
        if targets.known.any():
            row = int(np.flatnonzero(targets.known)[0])
            ids = [f"{item.name}/{item.split}:{name}" for item in datasets for name in item.columns["id"]]
            name = TASKS[task].classes[int(targets.classes_of(row).argmax())]
            where, found = f", {ids[row]}", f"one class, {name}, as in every other row"
        finer = ", or set model.head.age=years, whose bins are finer" if task == AGE.name else ""
        raise UserError(
            f"no partial label of {task}",
            where=f"data.labels.partial{where}",
            expected="a range across a boundary of the head's classes, or votes for several",
            found=found,
            fix=f"remove {task} from data.labels.partial{finer}",
        )


def memberships(targets: Targets) -> np.ndarray:
    """Returns the expected class of each example, (N, C): rows sum to 1, or to 0 without a label.

    q_c is proportional to w_c n_c, with n_c the examples whose label is class c alone; uniform over the
    set where there are none.
    """
    weights = by_class(targets.table).astype(np.float64)
    prior = weights[targets.index[targets.full]].sum(axis=0)
    by_prior = weights * prior
    weights = np.where(by_prior.sum(axis=1, keepdims=True) > 0, by_prior, weights)
    return (weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-30))[targets.index]


def by_class(weights: np.ndarray) -> np.ndarray:
    """Returns weights (U, C) of classes for those of years (U, 101); others unchanged."""
    if weights.shape[1] != NUM_YEARS:
        return weights
    return np.stack([weights[:, first:end].max(axis=1) for first, end in AGE_SPANS], axis=1)


def confusion(noise: Any, classes: int, *, where: str) -> np.ndarray:
    """Returns P(label | true class), (C, C) with rows that sum to 1, of a rate or of its rows.

    A rate r of wrong labels spreads them evenly: 1 - r on the diagonal and r / (C - 1) elsewhere.

    Raises:
      UserError: neither, in the field `where`.
    """
    try:
        given = np.asarray(noise, np.float64)
    except (TypeError, ValueError):
        given = np.array(np.nan)
    if given.shape == () and 0 <= given < 1:
        wrong = float(given) / max(classes - 1, 1)
        return np.where(np.eye(classes, dtype=bool), 1 - float(given), wrong)
    rows = given.shape == (classes, classes) and bool((given >= 0).all())
    if not rows or not np.allclose(given.sum(axis=1), 1, atol=1e-3):
        raise UserError(
            "not the noise of labels",
            where=where,
            expected=f"a rate below 1, or {classes} rows of {classes} probabilities that sum to 1",
            found=repr(noise)[:80],
            fix="write P(label | true class), one row per true class",
        )
    return given / given.sum(axis=1, keepdims=True)


def _years(intervals: np.ndarray) -> np.ndarray:
    """Returns which years are in [first, end), (U, 101); the last stands for itself and all above."""
    first, end = intervals.T[:, :, None]
    year = np.arange(NUM_YEARS)
    return (np.minimum(first, NUM_YEARS - 1) <= year) & (year < end)


def _corrected(weights: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Returns sum over the observed classes of P(label | true class) for each true class, or its years."""
    observed = by_class(np.asarray(weights, np.float64))
    known = observed.max(axis=1, keepdims=True) > observed.min(axis=1, keepdims=True)
    corrected = np.where(known, observed @ matrix.T, 0)
    if weights.shape[1] != NUM_YEARS:
        return corrected
    return np.repeat(corrected, [end - first for first, end in AGE_SPANS], axis=1)
