"""Error galleries of runs, which show faces and therefore stay with the data."""

import os
import pathlib
from collections.abc import Sequence

from softbio_jax.errors import UserError
from softbio_jax.evaluation import gallery
from softbio_jax.evaluation.report.document import file_stem
from softbio_jax.evaluation.report.runs import Run


def write_galleries(
    runs: Sequence[Run], data_root: str | os.PathLike, out: str | os.PathLike
) -> list[pathlib.Path]:
    """Writes one gallery a run and test set.

    Args:
      runs: runs whose config names their test sets as NAME/SPLIT (`data.test`).
      data_root: the folder of the prepared data sets.
      out: where to: a folder beside the data, unless pictures may leave it.

    Returns:
      The pages.

    Raises:
      UserError: a run whose config names no test set, or a data set that is not there.
    """
    written = []
    for run in (run for run in runs if not run.external):
        names = run.config.get("data", {}).get("test", ())
        if not names:
            raise UserError(
                "no gallery without test sets",
                where=f"{run.path}/config.json",
                expected="data.test with NAME/SPLIT",
                found="none",
                fix="leave --gallery out, or train with data.test",
            )
        for test_set in names:
            name, _, split = test_set.rpartition("/")
            if name not in run.predictions:
                continue
            picture = gallery.pictures(pathlib.Path(data_root) / name, split)
            path = pathlib.Path(out) / f"{file_stem(run.name)}_{file_stem(name)}.html"
            written.append(gallery.write(path, run.predictions[name], picture))
    return written
