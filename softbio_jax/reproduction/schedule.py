"""Which runs of a study can be done next, and which of those done are the chosen ones."""

import math
from collections.abc import Mapping
from typing import Any

from softbio_jax.errors import UserError
from softbio_jax.reproduction.study import Run, Study

Results = Mapping[Run, Mapping[str, Any]]


def search_runs(study: Study, cell: str) -> list[Run]:
    """Returns the runs among which a cell's factor is chosen."""
    return [Run(cell=cell, factor=factor, seed=study.seeds[0]) for factor in study.factors]


def chosen_factor(study: Study, cell: str, done: Results) -> float | None:
    """Returns the factor of the lowest validation loss, None while its search is not done.

    Tests play no part. Between equal losses the lower factor wins.

    Raises:
      UserError: no run of the cell has a finite loss.
    """
    runs = search_runs(study, cell)
    if any(run not in done for run in runs):
        return None
    losses = {run.factor: _loss(done[run]) for run in runs}
    best = min(sorted(losses), key=losses.__getitem__)
    if math.isinf(losses[best]):
        raise UserError("every learning rate of a cell diverged", where=f"cell {cell!r}",
                        found=f"factors {', '.join(f'{f:g}' for f in losses)}",
                        fix="lower its rates, in another --workdir")  # fmt: skip
    return best


def chosen_runs(study: Study, cell: str, done: Results) -> list[Run]:
    """Returns a cell's runs at its chosen factor, one a seed; none while the search is not done."""
    factor = chosen_factor(study, cell, done)
    if factor is None:
        return []
    return [Run(cell=cell, factor=factor, seed=seed) for seed in study.seeds]


def ready(study: Study, done: Results) -> list[Run]:
    """Returns the runs that are not done and wait for no other, cell by cell."""
    waiting = []
    for cell in study.cells:
        runs = [*search_runs(study, cell), *chosen_runs(study, cell, done)]
        waiting += [run for run in dict.fromkeys(runs) if run not in done]
    return waiting


def _loss(result: Mapping[str, Any]) -> float:
    loss = result["validation_loss"]
    return math.inf if loss is None or not math.isfinite(loss) else float(loss)
