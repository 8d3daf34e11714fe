"""Audit columns of a table that are labels by their names: ages in years or ranges, and votes."""

from __future__ import annotations

import collections
from collections.abc import Mapping

from softbio_jax.data.partial import votes
from softbio_jax.data.partial import years as partial_years
from softbio_jax.errors import UserError
from softbio_jax.tasks import AGE, MISSING, TASKS


class Agreement:
    """How many rows of a table have votes that agree with their labels."""

    def __init__(self) -> None:
        # task -> rows with a label and votes, and those of them with most votes for the label
        self.voted: collections.Counter[str] = collections.Counter()
        self.agreed: collections.Counter[str] = collections.Counter()


class OwnLabels:
    """Checks the columns that partial labels and metrics take for labels.

    Args:
      columns: role -> column of the table.
    """

    def __init__(self, columns: Mapping[str, str]):
        self._columns = columns
        self._ages = [role for role in partial_years.COLUMNS if role in columns]
        self._votes = {task: votes.column(task) for task in TASKS if votes.column(task) in columns}

    def voted(self, texts: Mapping[str, str]) -> list[str]:
        """Returns the tasks of which a row has votes."""
        return [task for task, role in self._votes.items() if texts[role]]

    def check(
        self, texts: Mapping[str, str], labels: Mapping[str, int], *, where: str, agreement: Agreement
    ) -> None:
        """Checks the columns of one row, and counts its votes.

        Args:
          texts: role -> the row's text.
          labels: the row's labels.
          where: the table and the row.
          agreement: counts the votes.

        Raises:
          UserError: no age or votes, or an age that contradicts the label.
        """
        for role in (*self._ages, *self._votes.values()):
            try:
                self._check(role, texts[role], labels, f"{where} column {self._columns[role]!r}", agreement)
            except UserError as error:
                other = f"give the column another role in --columns: own_{role}={self._columns[role]}"
                raise UserError(f"{error}, or if it holds something else {other}") from None

    def _check(
        self, role: str, text: str, labels: Mapping[str, int], where: str, agreement: Agreement
    ) -> None:
        if role in self._ages:
            partial_years.require_fitting(text, labels.get(AGE.name, MISSING), where=where)
            return
        task = next(task for task, column in self._votes.items() if column == role)
        if text:
            shares = votes.shares(text, task, where=where)
            if (label := labels.get(task, MISSING)) != MISSING:
                agreement.voted[task] += 1
                agreement.agreed[task] += bool(shares[label] == shares.max())

    def check_all(self, agreement: Agreement, *, table: str) -> None:
        """Raises UserError if the votes of a table are in another order."""
        for task, role in self._votes.items():
            where = f"{table} column {self._columns[role]!r}"
            votes.require_order(agreement.agreed[task], agreement.voted[task], task, where=where)
